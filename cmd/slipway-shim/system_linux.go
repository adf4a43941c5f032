package main

import (
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runc/libcontainer/capabilities"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// defaultState is where shims of a stock containerd have their directories.
func defaultState() string { return "/run/slipway-shim" }

// platformFeatures tells what libcontainer can do on this machine.
func platformFeatures(f *features.Features) {
	yes := true
	on := func(b bool) *bool { return &b }
	f.Hooks = []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}
	f.MountOptions = specconv.KnownMountOptions()
	slices.Sort(f.MountOptions)
	modes, _ := os.ReadFile("/sys/kernel/security/lsm")
	_, v2 := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	f.Linux = &features.Linux{
		Namespaces:   specconv.KnownNamespaces(),
		Capabilities: capabilities.KnownCapabilities(),
		Cgroup: &features.Cgroup{
			V1: on(v2 != nil), V2: on(v2 == nil), Systemd: &yes, SystemdUser: &yes, Rdma: &yes,
		},
		Apparmor: &features.Apparmor{Enabled: on(strings.Contains(string(modes), "apparmor"))},
		Selinux:  &features.Selinux{Enabled: on(strings.Contains(string(modes), "selinux"))},
		IntelRdt: &features.IntelRdt{Enabled: &yes},
		MountExtensions: &features.MountExtensions{
			IDMap: &features.IDMap{Enabled: &yes},
		},
		Seccomp: &features.Seccomp{Enabled: on(seccomp.Enabled)},
	}
	if seccomp.Enabled {
		f.Linux.Seccomp.Actions = seccomp.KnownActions()
		f.Linux.Seccomp.Operators = seccomp.KnownOperators()
		f.Linux.Seccomp.Archs = seccomp.KnownArchs()
	}
}
