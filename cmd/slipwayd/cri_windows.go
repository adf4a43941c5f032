package main

import (
	"context"
	"fmt"

	"github.com/Microsoft/hcsshim/cmd/containerd-shim-runhcs-v1/stats"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/slipwayd/slipway/engine/pods"
	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/internal/usage"
	"github.com/slipwayd/slipway/network"
	"github.com/slipwayd/slipway/network/hns"
	"github.com/slipwayd/slipway/shim"
)

// The runtime classes that clusters with Windows nodes name, as containerd's default configuration has them.
const (
	processClass = "runhcs-wcow-process"
	hyperVClass  = "runhcs-wcow-hypervisor"
)

// builtinClasses are the runtime classes that need no configuration, and classesText says what they are.
var builtinClasses = []string{defaultClass, processClass, hyperVClass}

const classesText = `"slipway" and "runhcs-wcow-process" are the built-in executor
# with process isolation, "runhcs-wcow-hypervisor" has it make a virtual machine around each container`

// networkText is what more is to be said of the network here.
const networkText = `
# Without a directory ("") pods get addresses of a nat network of the host, slipway-nat.`

// hostProcessRuntime runs what the built-in executor does not.
const hostProcessRuntime = "io.containerd.runhcs.v1"

// checkSystem refuses what the configuration asks for of Linux.
func (c criConfig) checkSystem() error {
	for key, set := range map[string]bool{"pause": c.Pause, "systemd_cgroup": c.SystemdCgroup, "selinux": c.SELinux, "nri.enabled": c.NRI.Enabled} {
		if set {
			return fmt.Errorf("cri.%s is for Linux and must not be set on Windows", key)
		}
	}
	for name, r := range c.Runtimes {
		if r.Pause {
			return fmt.Errorf("cri.runtimes.%s.pause is for Linux and must not be set on Windows: its pods need no process", name)
		}
	}
	return nil
}

// podsOfSystem adds what pods are made with on Windows.
func podsOfSystem(c config, tasks *shim.Manager, conf *pods.Config) error {
	service, err := hns.Open(hns.Default.Name)
	if err != nil {
		return err
	}
	conf.Windows = &pods.Windows{
		Namespaces: service, Usage: windowsUsage,
		HostProcess: func() (string, error) {
			if foreign, err := tasks.Foreign(hostProcessRuntime); err != nil || !foreign {
				return "", fmt.Errorf("containers that are processes of the host (host_process) need hcsshim's containerd-shim-runhcs-v1.exe on PATH, which is not there: %w", errdefs.ErrFailedPrecondition)
			}
			return hostProcessRuntime, nil
		},
	}
	if c.CRI.CNIConfDir == "" {
		conf.Network = natNetwork{service}
	}
	for name, r := range conf.Runtimes {
		r.Pause, r.HyperV = false, name == hyperVClass && r.Name == builtinRuntime
		conf.Runtimes[name] = r
	}
	return nil
}

// natNetwork is the network of pods where no plugins are configured. The host makes it for the first.
type natNetwork struct{ *hns.Service }

func (n natNetwork) Attach(ctx context.Context, p network.Pod) (network.Attachment, error) {
	if err := n.Ensure(ctx, hns.Default); err != nil {
		return network.Attachment{}, err
	}
	return n.Service.Attach(ctx, p)
}

// Status makes it: that shows whether it can be had.
func (n natNetwork) Status(ctx context.Context) error {
	if err := n.Ensure(ctx, hns.Default); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// Collect has nothing to free: an endpoint is its pod's, and goes with it.
func (natNetwork) Collect(context.Context, []string) error { return nil }

// windowsUsage reads the message that executors of Windows answer, runhcs' own.
func windowsUsage(statistics opaque.Any) (usage.Usage, error) {
	var s stats.Statistics
	if err := proto.Unmarshal(statistics.Value, &s); err != nil {
		return usage.Usage{}, fmt.Errorf("cannot read statistics of type %q: %w", statistics.TypeURL, err)
	}
	w := s.GetWindows()
	if w == nil {
		return usage.Usage{}, fmt.Errorf("statistics of type %q are not of Windows: %w", statistics.TypeURL, errdefs.ErrInvalidArgument)
	}
	working := w.GetMemory().GetMemoryUsagePrivateWorkingSetBytes()
	return usage.Usage{
		At: w.GetTimestamp().AsTime(), CPU: w.GetProcessor().GetTotalRuntimeNS(),
		Memory: working, WorkingSet: working, Commit: w.GetMemory().GetMemoryUsageCommitBytes(),
	}, nil
}
