package nri

import (
	"fmt"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func someDocument() *specs.Spec {
	shares, adj := uint64(2), 7
	return &specs.Spec{
		Process: &specs.Process{Args: []string{"sh"}, Env: []string{"A=1", "B=2"}, OOMScoreAdj: &adj},
		Mounts:  []specs.Mount{{Destination: "/b", Source: "/x", Type: "bind"}, {Destination: "/a", Source: "/y", Type: "bind"}},
		Linux: &specs.Linux{
			CgroupsPath: "/p", Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace, Path: "/n"}},
			Devices:   []specs.LinuxDevice{{Path: "/dev/old", Type: "c", Major: 9}},
			Resources: &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}, Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}},
		},
	}
}

// TestAdjust: each kind of adjustment arrives in the document, and what is not named stays.
func TestAdjust(t *testing.T) {
	a := &api.ContainerAdjustment{}
	a.AddEnv("A", "9")
	a.AddEnv("C", "3")
	a.SetArgs([]string{"true"})
	a.AddAnnotation("key", "value")
	a.RemoveMount("/b")
	a.AddMount(&api.Mount{Destination: "/c", Source: "/z", Type: "bind", Options: []string{"ro"}})
	a.AddDevice(&api.LinuxDevice{Path: "/dev/new", Type: "c", Major: 1, Minor: 5})
	a.AddDevice(&api.LinuxDevice{Path: "/dev/old", Type: "c", Major: 10})
	a.AddRlimit("RLIMIT_NOFILE", 20, 10)
	a.AddHooks(&api.Hooks{CreateRuntime: []*api.Hook{{Path: "/bin/hook"}}, Poststop: []*api.Hook{{Path: "/bin/end"}}})
	a.SetLinuxCPUShares(5)
	a.SetLinuxCPUSetCPUs("0-1")
	a.SetLinuxMemoryLimit(1 << 20)
	a.AddLinuxHugepageLimit("2MB", 4)
	a.AddLinuxUnified("memory.high", "1")
	a.SetLinuxPidLimits(11)
	oom := 500
	a.SetLinuxOomScoreAdj(&oom)
	a.SetLinuxSysctl("net.ipv4.ip_forward", "1")
	a.AddCDIDevice(&api.CDIDevice{Name: "vendor.com/thing=one"})
	a.SetLinuxCgroupsPath("/other/q")
	a.SetLinuxBlockIOClass("gold")
	doc := someDocument()
	var injected []string
	conf := Config{
		InjectDevices: func(_ *specs.Spec, names []string) error { injected = names; return nil },
		BlockIO:       map[string]BlockIOClass{"gold": {Weight: 700}},
	}
	if err := conf.adjust(doc, a); err != nil {
		t.Fatal(err)
	}
	l := doc.Linux
	for what, ok := range map[string]bool{
		"environment":  slices.Equal(doc.Process.Env, []string{"A=9", "B=2", "C=3"}),
		"arguments":    slices.Equal(doc.Process.Args, []string{"true"}),
		"annotation":   doc.Annotations["key"] == "value",
		"mounts":       len(doc.Mounts) == 2 && doc.Mounts[0].Destination == "/a" && doc.Mounts[1].Destination == "/c",
		"devices":      len(l.Devices) == 2 && l.Devices[0].Path == "/dev/new" && l.Devices[1].Major == 10,
		"device rules": len(l.Resources.Devices) == 3 && !l.Resources.Devices[0].Allow && l.Resources.Devices[1].Allow,
		"rlimits":      len(doc.Process.Rlimits) == 1 && doc.Process.Rlimits[0].Hard == 20,
		"hooks":        len(doc.Hooks.CreateRuntime) == 1 && len(doc.Hooks.Poststop) == 1,
		"cpu":          *l.Resources.CPU.Shares == 5 && l.Resources.CPU.Cpus == "0-1",
		"memory":       *l.Resources.Memory.Limit == 1<<20 && l.Resources.Memory.Swap == nil,
		"huge pages":   len(l.Resources.HugepageLimits) == 1,
		"unified":      l.Resources.Unified["memory.high"] == "1",
		"processes":    *l.Resources.Pids.Limit == 11,
		"oom score":    *doc.Process.OOMScoreAdj == 500,
		"sysctl":       l.Sysctl["net.ipv4.ip_forward"] == "1",
		"CDI":          slices.Equal(injected, []string{"vendor.com/thing=one"}),
		"cgroup":       l.CgroupsPath == "/other/q",
		"block I/O":    *l.Resources.BlockIO.Weight == 700,
		"namespaces":   len(l.Namespaces) == 2,
	} {
		if !ok {
			t.Errorf("%s: %+v %+v", what, doc, l)
		}
	}
}

// TestAdjustNothing: an empty answer changes nothing.
func TestAdjustNothing(t *testing.T) {
	for _, a := range []*api.ContainerAdjustment{nil, {}} {
		doc := someDocument()
		doc.Annotations = map[string]string{}
		before := fmt.Sprintf("%+v %+v %+v", doc.Process, doc.Mounts, doc.Linux.Resources)
		if err := (Config{}).adjust(doc, a); err != nil {
			t.Fatal(err)
		}
		if after := fmt.Sprintf("%+v %+v %+v", doc.Process, doc.Mounts, doc.Linux.Resources); after != before {
			t.Errorf("before %s\nafter %s", before, after)
		}
	}
}

func TestAdjustRefuses(t *testing.T) {
	for name, change := range map[string]func(*api.ContainerAdjustment){
		"cgroup of all":           func(a *api.ContainerAdjustment) { a.SetLinuxCgroupsPath("/") },
		"cgroup around its own":   func(a *api.ContainerAdjustment) { a.SetLinuxCgroupsPath("/pods/one") },
		"cgroup with detours":     func(a *api.ContainerAdjustment) { a.SetLinuxCgroupsPath("/pods/../x") },
		"cgroup of systemd":       func(a *api.ContainerAdjustment) { a.SetLinuxCgroupsPath("a.slice:b:c") },
		"unknown block I/O":       func(a *api.ContainerAdjustment) { a.SetLinuxBlockIOClass("silver") },
		"block I/O of no device":  func(a *api.ContainerAdjustment) { a.SetLinuxBlockIOClass("missing") },
		"block I/O of a terminal": func(a *api.ContainerAdjustment) { a.SetLinuxBlockIOClass("terminal") },
		"RDT":                     func(a *api.ContainerAdjustment) { a.SetLinuxRDTClass("gold") },
		"device that nobody describes": func(a *api.ContainerAdjustment) {
			a.AddCDIDevice(&api.CDIDevice{Name: "vendor.com/thing=one"})
		},
	} {
		a := &api.ContainerAdjustment{}
		change(a)
		conf := Config{
			InjectDevices: func(*specs.Spec, []string) error { return errdefs.ErrInvalidArgument },
			BlockIO: map[string]BlockIOClass{
				"missing": {Devices: []BlockIODevice{{Path: "/nothing/here"}}}, "terminal": {Devices: []BlockIODevice{{Path: "/dev/tty"}}},
			},
		}
		doc := someDocument()
		doc.Linux.CgroupsPath = "/pods/one/c"
		err := conf.adjust(doc, a)
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCheckCgroup: where systemd makes cgroups their names are other ones.
func TestCheckCgroup(t *testing.T) {
	const own = "pod.slice:cri:1"
	for wanted, good := range map[string]bool{"": true, "other.slice:cri:1": true, "/pod": false, "pod.slice": false, "a:b": false, "a/b:c:d": false} {
		if err := checkCgroup(own, wanted); (err == nil) != good || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", wanted, err)
		}
	}
}

// TestContainerOnTheWire: what plugins see of a container is what its document says, also where it says little.
func TestContainerOnTheWire(t *testing.T) {
	w := containerToWire(Container{ID: "c", PodID: "p", State: Running, Document: someDocument(), CDIDevices: []string{"v/t=1"}, ImageID: "sha256:1"})
	if w.State != api.ContainerState_CONTAINER_RUNNING || len(w.Mounts) != 2 || w.Linux.Resources.Cpu.Shares.GetValue() != 2 || w.Linux.OomScoreAdj.GetValue() != 7 ||
		w.Linux.CgroupsPath != "/p" || len(w.CDIDevices) != 1 || w.Image.ConfigDigest != "sha256:1" || w.CreatedAt != 0 {
		t.Errorf("%+v", w)
	}
	for _, doc := range []*specs.Spec{nil, {}, {Process: &specs.Process{}}, {Linux: &specs.Linux{}}} {
		containerToWire(Container{Document: doc})
	}
	if w := podToWire(Pod{ID: "p", NetNS: "/n"}); len(w.Linux.Namespaces) != 1 || w.Linux.PodOverhead != nil {
		t.Errorf("%+v", w)
	}
}
