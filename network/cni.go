package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	cnitypes "github.com/containernetworking/cni/pkg/types"
	types "github.com/containernetworking/cni/pkg/types/100"
)

// ifName is the interface that a pod's addresses are on.
const ifName = "eth0"

// statusFor is how long an answer of the plugins to STATUS holds: kubelet asks every few seconds.
const statusFor = 5 * time.Second

type cni struct {
	conf   Config
	libcni *libcni.CNIConfig

	mu     sync.Mutex
	loaded map[string]loaded // by directory
	asked  time.Time
	answer error
}

// loaded is a configuration and the file that it was read from.
type loaded struct {
	list *libcni.NetworkConfigList
	path string
	stat fs.FileInfo
}

func newCNI(c Config) *CNI {
	return &CNI{cni{conf: c, libcni: libcni.NewCNIConfigWithCacheDir(c.PluginDirs, c.CacheDir, nil), loaded: map[string]loaded{}}}
}

// list is the first configuration of a directory, read again when the file is another or has changed.
func (c *cni) list(dir string) (*libcni.NetworkConfigList, error) {
	if dir == "" {
		dir = c.conf.ConfigDir
	}
	files, err := libcni.ConfFiles(dir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("cannot look for CNI configuration in %s: %w", dir, err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("there is no CNI configuration in %s: install a network for pods, or give them the host's: %w", dir, errdefs.ErrFailedPrecondition)
	}
	path := files[0] // they are sorted by name
	for _, f := range files {
		if f < path {
			path = f
		}
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read CNI configuration: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	have := c.loaded[dir]
	if have.path == path && os.SameFile(have.stat, st) && have.stat.ModTime().Equal(st.ModTime()) && have.stat.Size() == st.Size() {
		return have.list, nil
	}
	list, err := readConfig(path)
	if err != nil {
		return nil, fmt.Errorf("CNI configuration %s cannot be used: %w: %w", path, err, errdefs.ErrFailedPrecondition)
	}
	c.loaded[dir] = loaded{list: list, path: path, stat: st}
	c.asked = time.Time{}
	return list, nil
}

func readConfig(path string) (*libcni.NetworkConfigList, error) {
	if filepath.Ext(path) == ".conflist" {
		return libcni.NetworkConfFromFile(path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if list, err := libcni.NetworkConfFromBytes(data); err == nil && len(list.Plugins) > 0 {
		return list, nil
	}
	// A file of one plugin, from before there were lists.
	var one struct {
		Version string `json:"cniVersion"`
		Name    string `json:"name"`
	}
	if err := json.Unmarshal(data, &one); err != nil {
		return nil, err
	}
	list, err := json.Marshal(map[string]any{"cniVersion": one.Version, "name": one.Name, "plugins": []json.RawMessage{data}})
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(list)
}

func (p Pod) runtime() *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{
		ContainerID: p.ID, NetNS: p.NetNS, IfName: ifName, CapabilityArgs: map[string]any{},
		// What Kubernetes' plugins are told (CNI CONVENTIONS.md, CNI_ARGS).
		Args: [][2]string{
			{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", p.Namespace}, {"K8S_POD_NAME", p.Name}, {"K8S_POD_INFRA_CONTAINER_ID", p.ID}, {"K8S_POD_UID", p.UID},
		},
	}
	type mapping struct {
		HostPort      int32  `json:"hostPort"`
		ContainerPort int32  `json:"containerPort"`
		Protocol      string `json:"protocol"`
		HostIP        string `json:"hostIP"`
	}
	var ports []mapping
	for _, m := range p.Ports {
		if m.Host > 0 {
			ports = append(ports, mapping{m.Host, m.Container, m.Protocol, m.HostIP})
		}
	}
	if len(ports) > 0 {
		rt.CapabilityArgs["portMappings"] = ports
	}
	if len(p.Annotations) > 0 {
		rt.CapabilityArgs["io.kubernetes.cri.pod-annotations"] = p.Annotations
	}
	if p.CgroupParent != "" {
		rt.CapabilityArgs["cgroupPath"] = p.CgroupParent
	}
	if len(p.DNS.Servers)+len(p.DNS.Searches)+len(p.DNS.Options) > 0 {
		rt.CapabilityArgs["dns"] = map[string]any{"servers": p.DNS.Servers, "searches": p.DNS.Searches, "options": p.DNS.Options}
	}
	return rt
}

func (c *cni) attach(ctx context.Context, p Pod) (Attachment, error) {
	list, err := c.list(p.ConfigDir)
	if err != nil {
		return Attachment{}, err
	}
	for _, arg := range []string{p.Name, p.Namespace, p.UID} {
		if strings.ContainsAny(arg, ";=") {
			return Attachment{}, fmt.Errorf("network plugins cannot be told of a pod whose name or namespace holds ; or =: %.200q: %w", arg, errdefs.ErrInvalidArgument)
		}
	}
	got, err := c.libcni.AddNetworkList(ctx, list, p.runtime())
	if err != nil {
		return Attachment{}, fmt.Errorf("network %s: %w", list.Name, err)
	}
	result, err := types.GetResult(got)
	if err != nil {
		return Attachment{}, fmt.Errorf("network %s answers what is no result: %w", list.Name, err)
	}
	var a Attachment
	for _, ip := range result.IPs {
		a.IPs = append(a.IPs, ip.Address.IP.String())
	}
	if len(a.IPs) == 0 || net.ParseIP(a.IPs[0]) == nil {
		return Attachment{}, fmt.Errorf("network %s gave the pod no address", list.Name)
	}
	a.Result, err = json.Marshal(result)
	return a, err
}

// detach prefers the configuration that the pod was attached with, which libcni kept.
func (c *cni) detach(ctx context.Context, p Pod) error {
	rt := p.runtime()
	if gone(p.NetNS) {
		rt.NetNS = "" // plugins then free what they have besides the interface
	}
	attached, err := c.libcni.GetCachedAttachments(p.ID)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot learn what the pod was attached to: %w", err)
	}
	for _, a := range attached {
		list, err := libcni.NetworkConfFromBytes(a.Config)
		if err != nil {
			return fmt.Errorf("cannot read what the pod was attached with: %w", err)
		}
		own := *rt
		own.IfName, own.Args, own.CapabilityArgs = a.IfName, a.CniArgs, a.CapabilityArgs
		if err := c.libcni.DelNetworkList(ctx, list, &own); err != nil {
			return fmt.Errorf("network %s: %w", list.Name, err)
		}
	}
	if len(attached) > 0 {
		return nil
	}
	// A plugin may have begun before there was a result to keep.
	list, err := c.list(p.ConfigDir)
	if errdefs.IsFailedPrecondition(err) {
		return nil
	} else if err != nil {
		return err
	}
	if err := c.libcni.DelNetworkList(ctx, list, rt); err != nil {
		return fmt.Errorf("network %s: %w", list.Name, err)
	}
	return nil
}

func (c *cni) collect(ctx context.Context, live []string) error {
	list, err := c.list("")
	if errdefs.IsFailedPrecondition(err) {
		return nil // without a network there is nothing to free
	} else if err != nil {
		return err
	}
	args := &libcni.GCArgs{}
	for _, id := range live {
		args.ValidAttachments = append(args.ValidAttachments, cnitypes.GCAttachment{ContainerID: id, IfName: ifName})
	}
	if err := c.libcni.GCNetworkList(ctx, list, args); err != nil {
		return fmt.Errorf("network %s: %w", list.Name, err)
	}
	return nil
}

func (c *cni) status(ctx context.Context) error {
	list, err := c.list("")
	if err != nil {
		return err
	}
	c.mu.Lock()
	if time.Since(c.asked) < statusFor {
		defer c.mu.Unlock()
		return c.answer
	}
	c.mu.Unlock()
	_, err = c.libcni.ValidateNetworkList(ctx, list) // that the plugins are there
	if err == nil {
		err = c.libcni.GetStatusNetworkList(ctx, list)
	}
	if err != nil {
		err = fmt.Errorf("network %s is not ready: %w: %w", list.Name, err, errdefs.ErrFailedPrecondition)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked, c.answer = time.Now(), err
	return err
}
