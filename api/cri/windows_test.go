package cri

import (
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/slipwayd/slipway/engine/pods"
	"github.com/slipwayd/slipway/internal/usage"
	"github.com/slipwayd/slipway/spec"
)

// Messages as kubelet makes them on a node of Windows.
func TestWindowsFromWire(t *testing.T) {
	pod, err := podFromWire(podOf(nil, &runtime.WindowsPodSandboxConfig{SecurityContext: &runtime.WindowsSandboxSecurityContext{
		RunAsUsername: "ContainerUser", CredentialSpec: `{"CmsPlugins":["ActiveDirectory"]}`,
	}}), "runhcs-wcow-process", windowsSide{})
	if err != nil {
		t.Fatal(err)
	}
	want := spec.PodSecurity{Windows: &spec.WindowsSecurity{Username: "ContainerUser", CredentialSpec: `{"CmsPlugins":["ActiveDirectory"]}`}}
	if !reflect.DeepEqual(pod.Security, want) {
		t.Errorf("security of the pod is %+v", pod.Security)
	}

	resources := &runtime.WindowsContainerResources{
		CpuMaximum: 2500, CpuShares: 7, CpuCount: 3, MemoryLimitInBytes: 256 << 20, RootfsSizeInBytes: 40 << 30,
		AffinityCpus: []*runtime.WindowsCpuGroupAffinity{{CpuMask: 5, CpuGroup: 1}},
	}
	user := &runtime.WindowsContainerSecurityContext{RunAsUsername: `NT AUTHORITY\SYSTEM`, CredentialSpec: "{}", HostProcess: true}
	for _, m := range []proto.Message{resources, user} { // a new version of CRI may have more
		for fields, i := m.ProtoReflect().Descriptor().Fields(), 0; i < fields.Len(); i++ {
			if !m.ProtoReflect().Has(fields.Get(i)) {
				t.Errorf("%s is not translated", fields.Get(i).FullName())
			}
		}
	}
	c, err := containerFromWire(containerOf(&runtime.LinuxContainerConfig{}, &runtime.WindowsContainerConfig{Resources: resources, SecurityContext: user}), windowsSide{})
	if err != nil {
		t.Fatal(err)
	}
	limits := &spec.WindowsResources{
		CPUMaximum: 2500, CPUShares: 7, CPUCount: 3, Memory: 256 << 20, RootfsSize: 40 << 30, Affinity: []spec.CPUAffinity{{Mask: 5, Group: 1}},
	}
	if !reflect.DeepEqual(c.Resources, &spec.Resources{Windows: limits}) {
		t.Errorf("resources are %+v", c.Resources.Windows)
	}
	if w := c.Security.Windows; w == nil || *w != (spec.WindowsSecurity{Username: `NT AUTHORITY\SYSTEM`, CredentialSpec: "{}", HostProcess: true}) {
		t.Errorf("security of the container is %+v", w)
	}

	// Status tells them as they were asked for, which kubelet compares.
	if back := (windowsSide{}).resources(c.Resources); back.Linux != nil || !proto.Equal(back.Windows, resources) {
		t.Errorf("the status tells %v", back)
	}
	updated, err := windowsSide{}.update(&runtime.UpdateContainerResourcesRequest{Windows: resources})
	if err != nil || !reflect.DeepEqual(updated, c.Resources) {
		t.Errorf("an update to the same is %+v, %v", updated, err)
	}
}

// The network that is asked for is in the pod's status as well, whichever section names it: kubelet would make the pod anew for ever.
func TestWindowsNetwork(t *testing.T) {
	node, own := runtime.NamespaceMode_NODE, runtime.NamespaceMode_POD
	for name, c := range map[string]struct{ linux, windows, want runtime.NamespaceMode }{
		"neither": {own, own, own}, "kubelet, for host processes": {node, own, node}, "by its own section": {own, node, node},
	} {
		p, err := podFromWire(podOf(
			&runtime.LinuxPodSandboxConfig{SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{Network: c.linux}}},
			&runtime.WindowsPodSandboxConfig{SecurityContext: &runtime.WindowsSandboxSecurityContext{
				HostProcess: true, NamespaceOptions: &runtime.WindowsNamespaceOption{Network: c.windows},
			}}), "", windowsSide{})
		if err != nil || !p.Security.Windows.HostProcess {
			t.Errorf("%s: %+v, %v", name, p, err)
			continue
		}
		if got := podStatus(pods.Pod{Spec: p}).GetLinux().GetNamespaces().GetOptions().GetNetwork(); got != c.want {
			t.Errorf("%s: the status says network %s", name, got)
		}
	}
}

func TestWindowsStats(t *testing.T) {
	at := time.Unix(0, 1700)
	cores := uint64(99)
	running := pods.Stats{
		Container: pods.Container{ID: "c1", Spec: &spec.PodContainer{Name: "web", Attempt: 2}},
		Use:       &usage.Usage{At: at, CPU: 5e9, WorkingSet: 100, Commit: 300, Limit: 1000, Tasks: 3},
		NanoCores: &cores,
		Layer:     &pods.FilesystemUsage{At: at, Path: `C:\layers`, Bytes: 77, Inodes: 9},
	}
	over := running
	over.Container = pods.Container{ID: "c2", Spec: &spec.PodContainer{Name: "more"}}
	over.Use, over.NanoCores, over.Layer = &usage.Usage{At: at, Commit: 2000, Limit: 1000, Tasks: 1}, nil, nil
	stopped := pods.Stats{Container: pods.Container{ID: "c3", Spec: &spec.PodContainer{Name: "done"}}}
	s := runtimeService{side: windowsSide{}}
	got := s.podStats(pods.PodStats{
		Pod: pods.Pod{ID: "p", Spec: &spec.Pod{Name: "pod"}}, At: at, Use: &usage.Usage{At: at, CPU: 6e9, WorkingSet: 110, Commit: 2300}, Containers: []pods.Stats{running, over, stopped},
		Network: []pods.Interface{{Name: "a", RxBytes: 1, RxDropped: 2, TxBytes: 3, TxDropped: 4, RxErrors: 100}, {Name: "b", TxBytes: 5}},
	})
	var want runtime.PodSandboxStats
	if err := prototext.Unmarshal([]byte(`
		attributes { id: "p" metadata { name: "pod" } }
		windows {
			cpu { timestamp: 1700 usage_core_nano_seconds { value: 6000000000 } }
			memory { timestamp: 1700 working_set_bytes { value: 110 } commit_memory_bytes { value: 2300 } }
			network {
				timestamp: 1700
				default_interface { name: "a" rx_bytes { value: 1 } rx_packets_dropped { value: 2 } tx_bytes { value: 3 } tx_packets_dropped { value: 4 } }
				interfaces { name: "b" rx_bytes {} rx_packets_dropped {} tx_bytes { value: 5 } tx_packets_dropped {} }
			}
			process { timestamp: 1700 process_count { value: 4 } }
			containers {
				attributes { id: "c1" metadata { name: "web" attempt: 2 } }
				cpu { timestamp: 1700 usage_core_nano_seconds { value: 5000000000 } usage_nano_cores { value: 99 } }
				memory { timestamp: 1700 working_set_bytes { value: 100 } available_bytes { value: 700 } commit_memory_bytes { value: 300 } }
				writable_layer { timestamp: 1700 fs_id { mountpoint: "C:\\layers" } used_bytes { value: 77 } }
			}
			containers {
				attributes { id: "c2" metadata { name: "more" } }
				cpu { timestamp: 1700 usage_core_nano_seconds {} }
				memory { timestamp: 1700 working_set_bytes {} available_bytes {} commit_memory_bytes { value: 2000 } }
			}
			containers { attributes { id: "c3" metadata { name: "done" } } }
		}`), &want); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got, &want) {
		t.Errorf("stats are\n%s\nwant\n%s", prototext.Format(got), prototext.Format(&want))
	}
}

// Nothing that only Linux has is promised.
func TestWindowsFeatures(t *testing.T) {
	all, handler := windowsSide{}.features()
	if !proto.Equal(all, &runtime.RuntimeFeatures{}) || !proto.Equal(handler, &runtime.RuntimeHandlerFeatures{}) {
		t.Errorf("features: %v, %v", all, handler)
	}
	if c := (windowsSide{}).config(pods.Config{SystemdCgroup: true}); c.GetLinux() != nil {
		t.Errorf("a cgroup driver is told: %v", c)
	}
}
