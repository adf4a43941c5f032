package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/api/cri"
	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/engine/pods"
	"github.com/slipwayd/slipway/network"
	"github.com/slipwayd/slipway/nri"
	"github.com/slipwayd/slipway/shim"
)

// criConfig is the part of the configuration that kubelet's side of the daemon needs.
type criConfig struct {
	Enabled        bool                     `toml:"enabled"`
	DefaultRuntime string                   `toml:"default_runtime"`
	Pause          bool                     `toml:"pause"`
	PauseImage     string                   `toml:"pause_image"`
	SystemdCgroup  bool                     `toml:"systemd_cgroup"`
	SELinux        bool                     `toml:"selinux"`
	CNIConfDir     string                   `toml:"cni_conf_dir"`
	CNIBinDirs     []string                 `toml:"cni_bin_dirs"`
	CNIGC          bool                     `toml:"cni_gc"`
	CDISpecDirs    []string                 `toml:"cdi_spec_dirs"`
	StreamAddress  string                   `toml:"stream_address"`
	StreamCert     string                   `toml:"stream_tls_cert"`
	StreamKey      string                   `toml:"stream_tls_key"`
	ParallelPulls  int                      `toml:"parallel_pulls"`
	PullTimeout    duration                 `toml:"pull_timeout"`
	PullLeast      size                     `toml:"pull_timeout_bytes"`
	NRI            nriConfig                `toml:"nri"`
	Runtimes       map[string]runtimeConfig `toml:"runtimes"`
}

// nriConfig is of plugins that see pods and adjust their containers.
type nriConfig struct {
	Enabled             bool     `toml:"enabled"`
	Socket              string   `toml:"socket"`
	PluginDir           string   `toml:"plugin_dir"`
	ConfigDir           string   `toml:"config_dir"`
	RegistrationTimeout duration `toml:"registration_timeout"`
	RequestTimeout      duration `toml:"request_timeout"`

	BlockIO map[string]nri.BlockIOClass `toml:"block_io"`
}

type runtimeConfig struct {
	Type                 string   `toml:"type"`
	Snapshotter          string   `toml:"snapshotter"`
	Pause                bool     `toml:"pause"`
	PodAnnotations       []string `toml:"pod_annotations"`
	ContainerAnnotations []string `toml:"container_annotations"`
	NoHostDevices        bool     `toml:"privileged_without_host_devices"`
	NetworkConfigDir     string   `toml:"cni_conf_dir"`
}

// defaultClass is the runtime class that pods get which ask for none, unless configured otherwise.
const (
	defaultClass   = "slipway"
	builtinRuntime = "io.containerd.slipway.v1"
)

func defaultCRI() criConfig {
	return criConfig{
		Enabled: true, DefaultRuntime: defaultClass, PauseImage: "registry.k8s.io/pause:3.10.1",
		CNIConfDir: defaultCNIConf, CNIBinDirs: defaultCNIBins,
		CDISpecDirs: []string{"/etc/cdi", "/var/run/cdi"}, StreamAddress: "127.0.0.1:0", PullTimeout: duration{5 * time.Minute}, PullLeast: size{1 << 20},
		NRI: nriConfig{
			Socket: nri.DefaultSocket, PluginDir: "/opt/nri/plugins", ConfigDir: "/etc/nri/conf.d",
			RegistrationTimeout: duration{5 * time.Second}, RequestTimeout: duration{2 * time.Second},
		},
	}
}

func defaultCRIText() string {
	return fmt.Sprintf(`
[cri]
# Serve Kubernetes' CRI on the same socket.
enabled = true
# The runtime class of pods that ask for none. %s; others are in tables:
# [cri.runtimes.kata]
# type = "io.containerd.kata.v2"      # as in [shim.runtimes], or the name of a shim binary
# snapshotter = "overlayfs"           # empty: the default
# pause = true                        # a process of pause_image for each pod; always with other shims than the built-in
# pod_annotations = ["io.katacontainers.*"]   # passed on to the runtime
# container_annotations = []
# privileged_without_host_devices = false
# cni_conf_dir = ""                   # of its own, instead of [cri]'s
default_runtime = "slipway"
# Hold every pod with a process of pause_image. Without, namespaces are pinned by files and need no process and no image.
pause = false
pause_image = "registry.k8s.io/pause:3.10.1"
# Cgroups are systemd's: kubelet must have cgroupDriver: systemd then.
systemd_cgroup = false
# Label processes and files as pods ask; without, SELinux options of pods are ignored.
selinux = false
# Network configuration of pods (CNI): the first file by name. It is read again when it changes.%s
cni_conf_dir = %q
cni_bin_dirs = %s
# At each start have plugins free addresses of pods that are not here (CNI 1.1, GC). Only where nobody else uses the same networks: theirs go too.
cni_gc = false
# Where vendors describe devices that containers may name (Container Device Interface).
cdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]
# How many images are pulled side by side at most; 0 for any number, as kubelet has a bound of its own.
parallel_pulls = 0
# A pull that brings less than so many bytes in so long is given up, however long it takes in all; what came is kept for the next.
pull_timeout = "5m"
pull_timeout_bytes = "1MiB"
# Where exec, attach and port-forward are served to kubelet: HOST:PORT, port 0 for any that is free. Empty: not at all. Who can connect needs a
# token as well, which CRI gives out; with another address than a loopback one set both files, and the streams are encrypted.
stream_address = "127.0.0.1:0"
stream_tls_cert = ""
stream_tls_key = ""

[cri.nri]
# Let plugins of the Node Resource Interface see pods and adjust containers. Whoever may connect to the socket has the rights of root.
enabled = false
# Where plugins connect by themselves, which one runtime on a host can serve; empty for nowhere.
socket = %q
# Programs NN-NAME that are started with the daemon, and their configuration: NN-NAME.conf or NAME.conf.
plugin_dir = "/opt/nri/plugins"
config_dir = "/etc/nri/conf.d"
# How long a plugin may take to register, and for each request; one that takes longer is disconnected.
registration_timeout = "5s"
request_timeout = "2s"
# Classes of block I/O that plugins may put containers into:
#   [cri.nri.block_io.slow]
#   weight = 100
#   [[cri.nri.block_io.slow.device]]
#   path = "/dev/sda"
#   read_bps = 10000000     # and write_bps, read_iops, write_iops, weight
`, classesText, networkText, defaultCNIConf, tomlList(defaultCNIBins), nri.DefaultSocket)
}

// tomlList writes an array of strings.
func tomlList(all []string) string {
	quoted := make([]string, len(all))
	for i, one := range all {
		quoted[i] = strconv.Quote(one)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// check refuses what could not work, before anything runs.
func (c criConfig) check() error {
	if err := c.checkSystem(); err != nil {
		return err
	}
	for name, r := range c.Runtimes {
		if r.Type == "" {
			return fmt.Errorf("cri.runtimes.%s needs a type, such as %q", name, builtinRuntime)
		}
	}
	if _, ok := c.Runtimes[c.DefaultRuntime]; !ok && !slices.Contains(builtinClasses, c.DefaultRuntime) {
		return fmt.Errorf("cri.default_runtime %q is not among cri.runtimes", c.DefaultRuntime)
	}
	if c.ParallelPulls < 0 {
		return fmt.Errorf("cri.parallel_pulls must be 0 or above, not %d", c.ParallelPulls)
	}
	if c.NRI.Enabled && c.NRI.Socket != "" && !filepath.IsAbs(c.NRI.Socket) {
		return fmt.Errorf("cri.nri.socket must be an absolute path, not %q", c.NRI.Socket)
	}
	if (c.StreamCert == "") != (c.StreamKey == "") {
		return errors.New("cri.stream_tls_cert and cri.stream_tls_key belong together: set both or none")
	}
	return nil
}

// wireStreaming serves exec, attach and port-forward; nil where that is turned off.
func wireStreaming(c criConfig, m *pods.Manager, log *slog.Logger) (*cri.Streaming, error) {
	if c.StreamAddress == "" {
		return nil, nil
	}
	o := cri.StreamingOptions{Address: c.StreamAddress, Log: log}
	if c.StreamCert != "" {
		if _, err := tls.LoadX509KeyPair(c.StreamCert, c.StreamKey); err != nil {
			return nil, fmt.Errorf("cannot read the certificate of streams ([cri] stream_tls_cert, stream_tls_key): %w", err)
		}
		o.TLS = &tls.Config{
			MinVersion: tls.VersionTLS12,
			// Read anew for each connection: certificates are renewed while the daemon runs.
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				cert, err := tls.LoadX509KeyPair(c.StreamCert, c.StreamKey)
				return &cert, err
			},
		}
	}
	return cri.NewStreaming(m, o)
}

// wirePlugins is nil where they are not wanted. Start follows when the pods are known.
func wirePlugins(c config, log *slog.Logger) (*nri.Plugins, error) {
	n := c.CRI.NRI
	if !n.Enabled {
		return nil, nil
	}
	return nri.New(nri.Config{
		Socket: n.Socket, PluginDir: n.PluginDir, ConfigDir: n.ConfigDir, RegistrationTimeout: n.RegistrationTimeout.Duration,
		RequestTimeout: n.RequestTimeout.Duration, BlockIO: n.BlockIO, Version: version, Log: log,
		InjectDevices: func(doc *specs.Spec, names []string) error { return pods.InjectDevices(c.CRI.CDISpecDirs, doc, names) },
	})
}

// wirePods makes the pods over an engine. plugins may be nil.
func wirePods(c config, eng *engine.Engine, tasks *shim.Manager, plugins *nri.Plugins, holder string, log *slog.Logger) (*pods.Manager, error) {
	runtimes := map[string]pods.Runtime{}
	for _, name := range builtinClasses {
		runtimes[name] = pods.Runtime{Name: builtinRuntime}
	}
	for name, r := range c.CRI.Runtimes {
		foreign, err := tasks.Foreign(r.Type)
		foreign = foreign || err != nil // it is not there yet
		runtimes[name] = pods.Runtime{
			Name: r.Type, Snapshotter: r.Snapshotter, Pause: r.Pause || foreign, Foreign: foreign, PodAnnotations: r.PodAnnotations,
			ContainerAnnotations: r.ContainerAnnotations, PrivilegedWithoutHostDevices: r.NoHostDevices, NetworkConfigDir: r.NetworkConfigDir,
		}
	}
	conf := pods.Config{
		Root: filepath.Clean(c.Root), State: filepath.Clean(c.State), DefaultRuntime: c.CRI.DefaultRuntime, Runtimes: runtimes, Pause: c.CRI.Pause, PauseImage: c.CRI.PauseImage,
		Holder: holder, SystemdCgroup: c.CRI.SystemdCgroup, SELinux: c.CRI.SELinux, CDISpecDirs: c.CRI.CDISpecDirs, Log: log,
		CollectNetwork: c.CRI.CNIGC, ParallelPulls: c.CRI.ParallelPulls, Patience: engine.Patience{For: c.CRI.PullTimeout.Duration, Bytes: c.CRI.PullLeast.Bytes},
		Network: network.New(network.Config{
			ConfigDir: c.CRI.CNIConfDir, PluginDirs: c.CRI.CNIBinDirs, CacheDir: filepath.Join(c.Root, "cni"),
		}),
	}
	if plugins != nil {
		conf.Plugins = plugins
	}
	if err := podsOfSystem(c, tasks, &conf); err != nil {
		return nil, err
	}
	return pods.New(eng, conf)
}
