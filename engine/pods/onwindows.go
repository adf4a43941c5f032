package pods

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/internal/durable"
	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/internal/usage"
	"github.com/slipwayd/slipway/network"
	"github.com/slipwayd/slipway/spec"
)

// Windows are what pods are made with there.
type Windows struct {
	Namespaces Namespaces
	// Usage reads the statistics that an executor answers of a container.
	Usage func(statistics opaque.Any) (usage.Usage, error)
	// HostProcess answers the runtime of containers that are processes of the host, which the built-in executor does not run.
	HostProcess func() (runtime string, err error)
}

// Namespaces are network namespaces of the Host Network Service, named by GUIDs; *hns.Service in the daemon, whose comments say what each verb does.
type Namespaces interface {
	NewNamespace(ctx context.Context, id string) error
	HasNamespace(ctx context.Context, id string) (bool, error)
	RemoveNamespace(ctx context.Context, id string) error
	Traffic(ctx context.Context, id string) ([]network.Interface, error)
}

// onWindows is the system whose pods are network namespaces of the host's service and nothing else. Those of processes of the host have not even
// that. They outlive the host's end as their directories do, but not their containers.
type onWindows struct {
	Windows
	m *Manager
}

// guid names a pod's network namespace: the first half of its id. So nothing needs to be kept for the namespace to be found.
func guid(id string) string {
	return id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:32]
}

func (w *onWindows) checkPod(s *spec.Pod) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("pod %s: %w: %w", s.Name, fmt.Errorf(format, args...), errdefs.ErrInvalidArgument)
	}
	sec := s.Security
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"sysctls", len(s.Sysctls) > 0}, {"privileged", sec.Privileged}, {"a user namespace", sec.Namespaces.User != nil && sec.Namespaces.User.Mode != spec.ModeNode},
		{"namespaces for processes or IPC", sec.Namespaces.PID == spec.ModeTarget || sec.Namespaces.PID == spec.ModeNode || sec.Namespaces.IPC == spec.ModeNode},
		{"SELinux", sec.SELinux != nil}, {"AppArmor", sec.AppArmor != nil && sec.AppArmor.Kind == spec.ProfileLocalhost},
		{"seccomp", sec.Seccomp != nil && sec.Seccomp.Kind == spec.ProfileLocalhost}, {"a read-only root file system", sec.ReadonlyRootfs},
		{"user and group ids", sec.User != nil || sec.Group != nil || len(sec.Groups) > 0},
	} {
		if f.set {
			return refuse("it asks for %s, which Windows has not", f.name)
		}
	}
	if s.HostProcess() { // which are in the host's network, whatever else is said
		s.Security.Namespaces.Network = spec.ModeNode
		return nil
	}
	if sec.Namespaces.Network != spec.ModePod {
		return refuse("only pods of processes of the host (host_process) can be in the host's network on Windows")
	}
	return nil
}

func (w *onWindows) checkContainer(p *pod, s *spec.PodContainer) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("container %s: %w: %w", s.Name, fmt.Errorf(format, args...), errdefs.ErrInvalidArgument)
	}
	sec := s.Security
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"privileged: use host_process", sec.Privileged}, {"capabilities", len(sec.AddCapabilities)+len(sec.DropCapabilities)+len(sec.AmbientCapabilities) > 0},
		{"SELinux", sec.SELinux != nil}, {"AppArmor", sec.AppArmor != nil && sec.AppArmor.Kind == spec.ProfileLocalhost},
		{"seccomp", sec.Seccomp != nil && sec.Seccomp.Kind == spec.ProfileLocalhost}, {"user and group ids", sec.User != nil || sec.Group != nil || len(sec.Groups) > 0},
		{"a read-only root file system", sec.ReadonlyRootfs}, {"CDI devices", len(s.CDIDevices) > 0},
	} {
		if f.set {
			return refuse("it asks for %s, which Windows has not", f.name)
		}
	}
	own := sec.Windows != nil && sec.Windows.HostProcess
	if own != p.record.Spec.HostProcess() {
		return refuse("host_process must be the same for a pod and all of its containers")
	}
	if own && s.Stdin {
		return fmt.Errorf("container %s: processes of the host have no standard input here: %w", s.Name, errdefs.ErrNotImplemented)
	}
	_, err := s.Resources.ForWindows()
	return err
}

// make makes the directory first: a namespace is found by its pod's.
func (w *onWindows) make(ctx context.Context, p *pod, record []byte) (err error) {
	if p.record.Spec.HostProcess() {
		if p.runtime.Name, err = w.HostProcess(); err != nil {
			return err
		}
		p.runtime.Options, p.runtime.Foreign = nil, true
	}
	dir := w.m.dir(p.id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make the directory of a pod: %w", err)
	}
	defer func() {
		if err != nil {
			ctx, cancel := undoing(ctx)
			defer cancel()
			err = errors.Join(err, w.remove(ctx, p))
		}
	}()
	if err := durable.Replace(filepath.Join(dir, podFile), record); err != nil {
		return fmt.Errorf("cannot note what a pod is to be: %w", err)
	}
	if id := w.netns(p); id != "" {
		return w.Namespaces.NewNamespace(ctx, id)
	}
	return nil
}

func (w *onWindows) alive(p *pod) bool {
	if _, err := os.Stat(w.m.dir(p.id)); err != nil {
		return false
	}
	id := w.netns(p)
	if id == "" {
		return true
	}
	found, err := w.Namespaces.HasNamespace(w.m.life, id)
	if err != nil {
		w.m.conf.Log.Warn("cannot tell whether a pod's network namespace is there; the pod is taken for ready", "pod", p.id, "err", err)
		return true
	}
	return found
}

func (w *onWindows) remove(ctx context.Context, p *pod) error {
	if id := w.netns(p); id != "" {
		if err := w.Namespaces.RemoveNamespace(ctx, id); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(w.m.dir(p.id)); err != nil {
		return fmt.Errorf("cannot remove the directory of pod %s: %w", p.id, err)
	}
	return nil
}

func (w *onWindows) netns(p *pod) string {
	if !ownNetwork(p.record.Spec) || len(p.id) != idLength { // what is in the directory of pods may be somebody else's
		return ""
	}
	return guid(p.id)
}

// dial connects to the pod's own address: its loopback cannot be reached from outside.
func (w *onWindows) dial(ctx context.Context, p Pod, port uint16) (*net.TCPConn, error) {
	addresses := p.IPs
	if !ownNetwork(p.Spec) {
		addresses = []string{"127.0.0.1", "::1"}
	}
	all := fmt.Errorf("no program of it listens there, other than at its loopback: %w", errdefs.ErrUnavailable)
	for _, address := range addresses {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(int(port))))
		if err == nil {
			return c.(*net.TCPConn), nil
		}
		all = errors.Join(all, err)
	}
	return nil, all
}

func (w *onWindows) accounts(context.Context, *engine.Snapshots, string) (spec.Accounts, error) {
	return spec.Accounts{}, nil // they are in the image's registry, where Windows looks for them
}

func (w *onWindows) user(p *pod, s *spec.PodContainer, img *image) (specs.User, error) {
	return specs.User{Username: spec.WindowsUser(p.record.Spec, s, img.Config.Config.User)}, nil
}

// snapshotLabels size the container's system drive, by containerd's label.
func (w *onWindows) snapshotLabels(_ *pod, s *spec.PodContainer) map[string]string {
	if s == nil || s.Resources == nil || s.Resources.Windows == nil || s.Resources.Windows.RootfsSize == 0 {
		return nil
	}
	return map[string]string{"containerd.io/snapshot/windows/rootfs.sizebytes": strconv.FormatInt(s.Resources.Windows.RootfsSize, 10)}
}

// nowhere is the device, as a path that is absolute.
func (w *onWindows) nowhere() string { return `\\.\NUL` }
