package spec

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	guidNetwork = "b3a1c6d2-7e55-4c1e-9a0b-2f8b1f1a6a11"
	gmsa        = `{"CmsPlugins":["ActiveDirectory"],"DomainJoinConfig":{"DnsName":"contoso.example"}}`
)

// winImage is of an image as Docker builds them.
var winImage = ocispec.ImageConfig{
	User: "ContainerUser", Entrypoint: []string{`C:\app\run.exe`}, Cmd: []string{"--port", "80"}, Env: []string{"A=image", "B=image"}, WorkingDir: `C:\app`,
}

func winDocument() WindowsPodDocument {
	return WindowsPodDocument{
		PodID: "pod1", ID: "c1", ImageName: "registry.example/app:1", OSVersion: "10.0.20348.2000", Network: guidNetwork, Image: winImage,
		Pod: &Pod{Name: "web", Namespace: "shop", UID: "u1", Hostname: "web-0"}, Container: &PodContainer{Name: "main", Image: PodImage{Ref: "app:1"}},
	}
}

// winCases are documents with their golden files.
var winCases = map[string]func(*WindowsPodDocument){
	"plain": func(*WindowsPodDocument) {},
	"everything": func(d *WindowsPodDocument) {
		d.Pod.DNS = &DNS{Servers: []string{"10.96.0.10"}, Searches: []string{"shop.svc.cluster.local", "cluster.local"}}
		d.Pod.Security.Windows = &WindowsSecurity{Username: "ContainerAdministrator", CredentialSpec: `{"CmsPlugins":[]}`}
		c := d.Container
		c.Command, c.Args, c.Env, c.WorkingDir, c.TTY = []string{"cmd"}, []string{"/c", "dir"}, []string{"B=own"}, `D:\work`, true
		c.Security.Windows = &WindowsSecurity{CredentialSpec: gmsa}
		c.Mounts = []PodMount{
			{Source: `C:\var\lib\kubelet\pods\u1\data`, Destination: `C:\data`},
			{Source: "c:/secrets", Destination: "/var/run/secrets/kubernetes.io/serviceaccount", Readonly: true},
			{Source: `\\.\pipe\docker_engine`, Destination: `\\.\pipe\docker_engine`},
		}
		c.Devices = []Device{{Host: "class/5B45201D-F2F2-4F3B-85BB-30FF1F953599"}, {Host: "class://5B45201D-F2F2-4F3B-85BB-30FF1F953598"}}
		c.Resources = &Resources{Windows: &WindowsResources{CPUMaximum: 2500, Memory: 512 << 20, RootfsSize: 40 << 30}}
	},
	"hypervisor":   func(d *WindowsPodDocument) { d.HyperV = true },
	"host-process": func(d *WindowsPodDocument) { hostProcess(d) },
	"arguments-escaped": func(d *WindowsPodDocument) {
		escaped(&d.Image)
		d.Container.Args = []string{"--quiet", `say "a\b\"`, ""}
	},
	"entry-of-its-own": func(d *WindowsPodDocument) {
		escaped(&d.Image) // which says nothing of another program's arguments
		d.Container.Command = []string{"cmd", "/c", "echo a b"}
	},
}

func escaped(c *ocispec.ImageConfig) {
	//lint:ignore SA1019 Windows images still set it
	c.ArgsEscaped = true
}

func hostProcess(d *WindowsPodDocument) {
	d.Pod.Security.Windows = &WindowsSecurity{HostProcess: true, Username: `NT AUTHORITY\SYSTEM`}
	d.Container.Security.Windows = &WindowsSecurity{HostProcess: true}
	d.Network, d.Alone = "", true
}

func TestWindowsDocuments(t *testing.T) {
	for name, change := range winCases {
		t.Run(name, func(t *testing.T) {
			d := winDocument()
			change(&d)
			s, err := ForWindowsPod(d)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(s, "", "\t")
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", "windows", name+".json")
			if *update {
				if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != strings.TrimSuffix(string(want), "\n") {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

func TestWindowsRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*WindowsPodDocument)
		words  string
	}{
		"no command": {func(d *WindowsPodDocument) { d.Image = ocispec.ImageConfig{} }, "no command"},
		"variable":   {func(d *WindowsPodDocument) { d.Container.Env = []string{"=x"} }, "no name"},
		"image volume": {func(d *WindowsPodDocument) {
			d.Container.Mounts = []PodMount{{Destination: `C:\x`, Image: &PodImage{}}}
		}, "sets image"},
		"volume of none":  {func(d *WindowsPodDocument) { d.Container.Mounts = []PodMount{{Destination: `C:\x`}} }, "both paths"},
		"propagation":     {mounting(PodMount{Propagation: PropagationBoth}), "sets propagation"},
		"recursive":       {mounting(PodMount{Readonly: true, RecursiveReadonly: true}), "sets recursive_read_only"},
		"mount options":   {mounting(PodMount{Options: []string{"noexec"}}), "sets mount options"},
		"id mappings":     {mounting(PodMount{UIDs: []IDMap{{}}}), "sets uidMappings"},
		"relabelled":      {mounting(PodMount{Relabel: true}), "sets selinux_relabel"},
		"two CPU limits":  {limited(WindowsResources{CPUShares: 1, CPUMaximum: 5}), "exclude each other"},
		"too many shares": {limited(WindowsResources{CPUShares: 10001}), "cpu_shares must be from 0 to 10000"},
		"negative memory": {limited(WindowsResources{Memory: -1}), "memory_limit_in_bytes must be"},
		"Linux device":    {func(d *WindowsPodDocument) { d.Container.Devices = []Device{{Host: "null"}} }, "not TYPE://ID"},
		"device's path":   {func(d *WindowsPodDocument) { d.Container.Devices = []Device{{Host: "class://x", Container: "/dev/x"}} }, "no path in the container"},
		"credentials":     {func(d *WindowsPodDocument) { d.Pod.Security.Windows = &WindowsSecurity{CredentialSpec: "gmsa"} }, "no JSON"},
	} {
		d := winDocument()
		test.change(&d)
		if _, err := ForWindowsPod(d); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: %v, want %q", name, err, test.words)
		}
	}
	d := winDocument()
	limited(WindowsResources{Affinity: []CPUAffinity{{Mask: 3}}})(&d)
	if _, err := ForWindowsPod(d); !errdefs.IsNotImplemented(err) {
		t.Errorf("affinity: %v", err)
	}
}

func mounting(m PodMount) func(*WindowsPodDocument) {
	m.Source, m.Destination = `C:\a`, `C:\b`
	return func(d *WindowsPodDocument) { d.Container.Mounts = []PodMount{m} }
}

func limited(w WindowsResources) func(*WindowsPodDocument) {
	return func(d *WindowsPodDocument) { d.Container.Resources = &Resources{Windows: &w} }
}

// TestWindowsResourcesUpdate: one limit of the processor takes the place of another, the rest adds up.
func TestWindowsResourcesUpdate(t *testing.T) {
	have := &Resources{Windows: &WindowsResources{CPUShares: 100, Memory: 1000}}
	got := have.Update(&Resources{Windows: &WindowsResources{CPUMaximum: 500}}).Windows
	if got.CPUShares != 0 || got.CPUMaximum != 500 || got.Memory != 1000 || have.Windows.CPUShares != 100 {
		t.Errorf("%+v of %+v", got, have.Windows)
	}
	if got := have.Update(nil).Windows; got == nil || got.Memory != 1000 {
		t.Errorf("no change: %+v", got)
	}
	if got := (*Resources)(nil).Update(&Resources{Windows: &WindowsResources{Memory: 5}}).Windows; got == nil || got.Memory != 5 {
		t.Errorf("a first limit: %+v", got)
	}
}
