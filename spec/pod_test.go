package spec

import (
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var testHost = Host{
	Swap: true, Hugetlb: true, LeastOOMScoreAdj: -1000,
	Capabilities:      []string{"CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_NET_RAW"},
	KnownCapabilities: append([]string{"CAP_SYS_ADMIN", "CAP_SYS_TIME"}, defaultCapabilities()...),
}

func document(c PodContainer, change func(*PodDocument)) (*specs.Spec, error) {
	if c.Name == "" {
		c.Name = "c"
	}
	d := PodDocument{
		PodID: "p", ID: "i", Pod: &Pod{Name: "pod"}, Container: &c, Host: testHost, Hostname: "host",
		Image:      ocispec.ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"arg"}, Env: []string{"A=image", "B=image"}},
		Namespaces: map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "/ns/net"},
	}
	if change != nil {
		change(&d)
	}
	return ForPod(d)
}

func TestPodCommands(t *testing.T) {
	for name, test := range map[string]struct {
		command, args, want []string
	}{
		"the image's":           {nil, nil, []string{"/entry", "arg"}},
		"own arguments":         {nil, []string{"x"}, []string{"/entry", "x"}},
		"own command":           {[]string{"/own"}, nil, []string{"/own"}},
		"own command, own args": {[]string{"/own"}, []string{"x"}, []string{"/own", "x"}},
	} {
		s, err := document(PodContainer{Command: test.command, Args: test.args, Env: []string{"B=own"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(s.Process.Args, test.want) {
			t.Errorf("%s: %q, want %q", name, s.Process.Args, test.want)
		}
		for _, e := range []string{"A=image", "B=own", "HOSTNAME=host"} {
			if !slices.Contains(s.Process.Env, e) {
				t.Errorf("%s: %q has no %s", name, s.Process.Env, e)
			}
		}
	}
}

func TestPodCapabilities(t *testing.T) {
	all := testHost.Capabilities
	for name, test := range map[string]struct {
		sec  ContainerSecurity
		want []string
	}{
		"none named":         {ContainerSecurity{}, defaultCapabilities()},
		"all dropped":        {ContainerSecurity{DropCapabilities: []string{"ALL"}}, nil},
		"all dropped, one":   {ContainerSecurity{DropCapabilities: []string{"all"}, AddCapabilities: []string{"SYS_TIME"}}, []string{"CAP_SYS_TIME"}},
		"all added but one":  {ContainerSecurity{AddCapabilities: []string{"ALL"}, DropCapabilities: []string{"NET_RAW"}}, []string{"CAP_CHOWN", "CAP_SYS_ADMIN"}},
		"privileged":         {ContainerSecurity{Privileged: true}, all},
		"ambient is granted": {ContainerSecurity{DropCapabilities: []string{"ALL"}, AmbientCapabilities: []string{"CHOWN"}}, []string{"CAP_CHOWN"}},
	} {
		s, err := document(PodContainer{Security: test.sec}, func(d *PodDocument) { d.PrivilegedWithoutDevices = true })
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := s.Process.Capabilities; !slices.Equal(got.Bounding, test.want) || !slices.Equal(got.Effective, test.want) || len(got.Ambient) != len(test.sec.AmbientCapabilities) {
			t.Errorf("%s: %+v, want %q", name, got, test.want)
		}
	}
}

func TestPodRefusals(t *testing.T) {
	for name, c := range map[string]PodContainer{
		"relative working directory":      {WorkingDir: "x"},
		"unknown capability":              {Security: ContainerSecurity{AddCapabilities: []string{"FLY"}}},
		"relative volume":                 {Mounts: []PodMount{{Destination: "x", Source: "/y"}}},
		"recursive but writable":          {Mounts: []PodMount{{Destination: "/x", Source: "/y", RecursiveReadonly: true}}},
		"recursive and propagated":        {Mounts: []PodMount{{Destination: "/x", Source: "/y", Readonly: true, RecursiveReadonly: true, Propagation: PropagationFromHost}}},
		"unknown propagation":             {Mounts: []PodMount{{Destination: "/x", Source: "/y", Propagation: 9}}},
		"unknown mount option":            {Mounts: []PodMount{{Destination: "/x", Source: "/y", Options: []string{"upperdir=/etc"}}}},
		"unified on v1":                   {Resources: &Resources{Unified: map[string]string{"memory.high": "1"}}},
		"negative memory":                 {Resources: &Resources{Memory: -1}},
		"oom_score_adj out of range":      {Resources: &Resources{OOMScoreAdj: 2000}},
		"seccomp profile without a path":  {Security: ContainerSecurity{Seccomp: &Profile{Kind: ProfileLocalhost, Ref: "x"}}},
		"AppArmor where there is none":    {Security: ContainerSecurity{AppArmor: &Profile{Kind: ProfileLocalhost, Ref: "x"}}},
		"SELinux where there is none":     {Security: ContainerSecurity{SELinux: &SELinux{Type: "x"}}},
		"environment without a name":      {Env: []string{"=x"}},
		"device without permissions":      {Devices: []Device{{Container: "/dev/x", Host: "/dev/null"}}},
		"device that is a file":           {Devices: []Device{{Container: "/dev/x", Host: "/etc/passwd", Permissions: "r"}}},
		"device with unknown permissions": {Devices: []Device{{Container: "/dev/x", Host: "/dev/null", Permissions: "rx"}}},
	} {
		if _, err := document(c, nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPodMounts(t *testing.T) {
	s, err := document(PodContainer{Mounts: []PodMount{
		{Destination: "/data/sub", Source: "/b", Readonly: true, RecursiveReadonly: true},
		{Destination: "/data", Source: "/a", Propagation: PropagationBoth},
		{Destination: "/etc/hosts", Source: "/kubelet/hosts"},
	}}, func(d *PodDocument) {
		d.Volumes = []specs.Mount{{Destination: "/etc/hosts", Source: "/pod/hosts"}, {Destination: "/dev/shm", Source: "/pod/shm"}}
	})
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, m := range s.Mounts {
		if m.Type == "bind" || m.Source == "/pod/shm" || m.Source == "/pod/hosts" {
			order = append(order, m.Source)
		}
		if m.Destination == "/run" {
			t.Error("/run is mounted")
		}
		if m.Source == "/b" && !slices.Contains(m.Options, "rro") {
			t.Errorf("options of /b: %q", m.Options)
		}
	}
	if want := []string{"/a", "/pod/shm", "/b", "/kubelet/hosts"}; !slices.Equal(order, want) {
		t.Errorf("mounted %q, want %q: what is above before what is below, and nothing that the container hides", order, want)
	}
	if s.Linux.RootfsPropagation != "rshared" {
		t.Errorf("propagation of the root is %q", s.Linux.RootfsPropagation)
	}
}

func TestPodUser(t *testing.T) {
	a := Accounts{
		Passwd: []byte("root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n"), Group: []byte("root:x:0:\nextra:x:50:web\n"),
	}
	id := func(n int64) *int64 { return &n }
	for name, test := range map[string]struct {
		sec      ContainerSecurity
		image    string
		uid, gid uint32
		groups   []uint32
	}{
		"root":            {ContainerSecurity{}, "", 0, 0, []uint32{0}},
		"image's":         {ContainerSecurity{}, "web", 33, 34, []uint32{34, 50}},
		"by id":           {ContainerSecurity{User: id(33), Groups: []int64{7}}, "", 33, 34, []uint32{34, 7, 50}},
		"strict":          {ContainerSecurity{User: id(33), Groups: []int64{7}, StrictGroups: true}, "", 33, 34, []uint32{34, 7}},
		"group as well":   {ContainerSecurity{User: id(33), Group: id(9)}, "", 33, 9, []uint32{9}},
		"unknown id":      {ContainerSecurity{User: id(1000)}, "web", 1000, 0, []uint32{0}},
		"by name":         {ContainerSecurity{Username: "web"}, "", 33, 34, []uint32{34, 50}},
		"named only root": {ContainerSecurity{Username: "root"}, "web", 0, 0, []uint32{0}},
	} {
		u, err := PodUser(a, test.sec, test.image)
		if err != nil || u.UID != test.uid || u.GID != test.gid || !slices.Equal(u.AdditionalGids, test.groups) {
			t.Errorf("%s: %+v, %v", name, u, err)
		}
	}
	for name, sec := range map[string]ContainerSecurity{
		"group without user": {Group: id(5)}, "unknown name": {Username: "who"}, "negative group": {Groups: []int64{-1}}, "negative user": {User: id(-1)},
	} {
		if u, err := PodUser(a, sec, ""); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %+v, %v", name, u, err)
		}
	}
}

func TestResourcesUpdate(t *testing.T) {
	have := &Resources{CPUShares: 100, Memory: 1000, Unified: map[string]string{"a": "1", "b": "1"}}
	got := have.Update(&Resources{Memory: 2000, Unified: map[string]string{"b": "2"}})
	if got.CPUShares != 100 || got.Memory != 2000 || got.Unified["a"] != "1" || got.Unified["b"] != "2" || have.Memory != 1000 || have.Unified["b"] != "1" {
		t.Errorf("%+v of %+v", got, have)
	}
	limits, err := got.Linux(Host{Swap: true, CgroupV2: true})
	if err != nil || *limits.Memory.Swap != 2000 || *limits.Memory.Limit != 2000 || limits.CPU == nil {
		t.Errorf("%+v, %v: a limit is to keep a container from swapping", limits, err)
	}
}
