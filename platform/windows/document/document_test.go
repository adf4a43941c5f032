package document_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/platform/windows/document"
	"github.com/slipwayd/slipway/platform/windows/hcs"
)

var update = flag.Bool("update", false, "write golden files instead of comparing")

// host has C:\data, C:\data\file, a utility VM in C:\layers\base, and four processors.
type host struct{ build uint16 }

func (h host) Machine() hcs.Machine { return hcs.Machine{Build: h.build, Processors: 4} }

func (h host) Resolve(path string) (string, bool, error) {
	switch path {
	case `C:\data`, `C:\more`, `D:\vm`, `C:\layers\base\UtilityVM`:
		return path, true, nil
	case `C:\data\file`:
		return `C:\real\file`, false, nil
	}
	return "", false, errdefs.ErrNotFound
}

func ptr[T any](v T) *T { return &v }

const (
	namespace = "11111111-2222-3333-4444-555555555555"
	endpoint  = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
	class     = "5B45201D-F2F2-4F3B-85BB-30FF1F953599"
	gmsa      = `{"CmsPlugins":["ActiveDirectory"],"DomainJoinConfig":{"DnsName":"contoso.com"}}`
)

func base() *specs.Spec {
	return &specs.Spec{
		Process: &specs.Process{Args: []string{"cmd", "/c", "ver"}, Cwd: `C:\`},
		Windows: &specs.Windows{LayerFolders: []string{`C:\layers\app`, `C:\layers\base`, `C:\layers\scratch`}},
	}
}

// golden are specs whose documents are kept in testdata.
var golden = map[string]struct {
	build uint16
	spec  func(*specs.Spec)
}{
	"plain":     {20348, func(*specs.Spec) {}},
	"plain-old": {14393, func(*specs.Spec) {}},
	"full": {20348, func(s *specs.Spec) {
		s.Hostname = "web"
		s.Annotations = map[string]string{"org.opencontainers.image.os.version": "10.0.20348.2113"}
		s.Mounts = []specs.Mount{
			{Source: `C:\data`, Destination: `C:\in`, Options: []string{"ro"}},
			{Source: `C:/data/.//file`, Destination: `/etc/file`, Options: []string{"rbind", "rw"}},
			{Source: `\\.\pipe\docker`, Destination: `\\.\pipe\inner`, Type: "npipe"},
		}
		s.Windows.Resources = &specs.WindowsResources{
			CPU: &specs.WindowsCPUResources{Count: ptr(uint64(9))}, Memory: &specs.WindowsMemoryResources{Limit: ptr(uint64(200<<20 + 1))},
			Storage: &specs.WindowsStorageResources{Iops: ptr(uint64(500)), Bps: ptr(uint64(1 << 20)), SandboxSize: ptr(uint64(30 << 30))},
		}
		s.Windows.Devices = []specs.WindowsDevice{{ID: class, IDType: "class"}, {ID: "class://" + class}, {ID: "PCIROOT(0)#PCI(0100)", IDType: "vpci-location-path"}}
		s.Windows.Network = &specs.WindowsNetwork{NetworkNamespace: namespace, DNSSearchList: []string{"a.local", "b.local"}, AllowUnqualifiedDNSQuery: true}
	}},
	"mounted-by-client": {20348, func(s *specs.Spec) {
		s.Root = &specs.Root{Path: `\\?\Volume{01234567-89AB-cdef-0123-456789abcdef}\`}
		s.Windows.Resources = &specs.WindowsResources{CPU: &specs.WindowsCPUResources{Shares: ptr(uint16(500))}}
	}},
	"credentials": {20348, func(s *specs.Spec) {
		s.Windows.CredentialSpec = gmsa
		s.Windows.Network = &specs.WindowsNetwork{NetworkNamespace: namespace}
		s.Windows.Resources = &specs.WindowsResources{CPU: &specs.WindowsCPUResources{Maximum: ptr(uint16(2500))}}
	}},
	"hyperv-credentials": {20348, func(s *specs.Spec) {
		s.Windows.HyperV = &specs.WindowsHyperV{}
		s.Windows.CredentialSpec = map[string]any{"CmsPlugins": []string{"ActiveDirectory"}}
	}},
	"endpoints": {20348, func(s *specs.Spec) {
		s.Windows.Network = &specs.WindowsNetwork{EndpointList: []string{endpoint}, DNSSearchList: []string{"x"}}
		s.Windows.Devices = []specs.WindowsDevice{{ID: class, IDType: "vpci-class-guid"}}
		s.Mounts = []specs.Mount{{Source: `C:\data`, Destination: `D:\`}, {Source: `\\.\pipe\a`, Destination: `\\.\pipe\b`}}
		s.Hostname = "old"
	}},
	"hyperv": {20348, func(s *specs.Spec) {
		s.Windows.HyperV = &specs.WindowsHyperV{}
		s.Annotations = map[string]string{"org.opencontainers.image.os.version": "10.0.17763.1"}
		s.Windows.Resources = &specs.WindowsResources{
			CPU: &specs.WindowsCPUResources{Count: ptr(uint64(2))}, Memory: &specs.WindowsMemoryResources{Limit: ptr(uint64(1 << 30))},
			Storage: &specs.WindowsStorageResources{Iops: ptr(uint64(500)), Bps: ptr(uint64(1 << 20)), SandboxSize: ptr(uint64(30 << 30))},
		}
		s.Windows.Network = &specs.WindowsNetwork{NetworkNamespace: namespace}
		s.Windows.IgnoreFlushesDuringBoot = true
	}},
	"hyperv-vm-by-name": {26100, func(s *specs.Spec) { s.Windows.HyperV = &specs.WindowsHyperV{UtilityVMPath: `D:\vm`} }},
}

func marshal(t *testing.T, s *specs.Spec) json.RawMessage {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestDocuments(t *testing.T) {
	for name, test := range golden {
		t.Run(name, func(t *testing.T) {
			s := base()
			test.spec(s)
			c, err := document.New(host{test.build}, marshal(t, s), hcs.Layers{})
			if err != nil {
				t.Fatal(err)
			}
			m := document.Made{Volume: c.Volume, LayerIDs: []string{"00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"}}
			if m.Volume == "" && !c.HyperV {
				m.Volume = `\\?\Volume{fedcba98-0123-0123-0123-456789abcdef}`
			}
			if c.Namespace != "" {
				m.Endpoints = []string{endpoint}
			}
			if c.Credentials != "" {
				m.Guard = json.RawMessage(`{"Cookie":"c","RpcEndpoint":"e","Transport":"LRPC","CredentialSpec":"{}"}`)
			}
			got, err := c.Document("system-1", m)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, name, got)
		})
	}
}

func compare(t *testing.T, name string, got json.RawMessage) {
	t.Helper()
	var text bytes.Buffer
	if err := json.Indent(&text, got, "", "  "); err != nil {
		t.Fatal(err)
	}
	text.WriteByte('\n')
	path := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(path, text.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want = bytes.ReplaceAll(want, []byte("\r\n"), []byte("\n")); !bytes.Equal(text.Bytes(), want) {
		t.Errorf("document %s is\n%s", name, text.Bytes())
	}
}

// TestRootfs takes layers from the client's mounts.
func TestRootfs(t *testing.T) {
	s := base()
	s.Windows.LayerFolders = nil
	l := hcs.Layers{Scratch: `C:\layers\s`, Parents: []string{`C:\layers\base`}}
	c, err := document.New(host{20348}, marshal(t, s), l)
	if err != nil || c.Layers.Scratch != l.Scratch || len(c.Layers.Parents) != 1 {
		t.Fatalf("layers %+v, %v", c, err)
	}
	if _, err := c.Document("a", document.Made{}); err == nil {
		t.Error("made a document without the ids of its layers")
	}
	if _, err := document.New(host{20348}, marshal(t, base()), l); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("layers given twice: %v", err)
	}
}

func TestRefused(t *testing.T) {
	cpu := func(c specs.WindowsCPUResources) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Windows.Resources = &specs.WindowsResources{CPU: &c} }
	}
	mount := func(m ...specs.Mount) func(*specs.Spec) { return func(s *specs.Spec) { s.Mounts = m } }
	network := func(n specs.WindowsNetwork) func(*specs.Spec) { return func(s *specs.Spec) { s.Windows.Network = &n } }
	version := func(v string) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Annotations = map[string]string{"org.opencontainers.image.os.version": v} }
	}
	device := func(id, kind string) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Windows.Devices = []specs.WindowsDevice{{ID: id, IDType: kind}} }
	}
	for name, test := range map[string]struct {
		change func(*specs.Spec)
		kind   error
		says   string
	}{
		"count and maximum":      {cpu(specs.WindowsCPUResources{Count: ptr(uint64(1)), Maximum: ptr(uint16(1))}), errdefs.ErrInvalidArgument, "exclude each other"},
		"count and shares":       {cpu(specs.WindowsCPUResources{Count: ptr(uint64(1)), Shares: ptr(uint16(1))}), errdefs.ErrInvalidArgument, "exclude each other"},
		"maximum over 100 %":     {cpu(specs.WindowsCPUResources{Maximum: ptr(uint16(10001))}), errdefs.ErrInvalidArgument, "10000"},
		"affinity":               {cpu(specs.WindowsCPUResources{Affinity: []specs.WindowsCPUGroupAffinity{{Mask: 1}}}), errdefs.ErrNotImplemented, "runhcs"},
		"LCOW":                   {func(s *specs.Spec) { s.Linux = &specs.Linux{} }, errdefs.ErrNotImplemented, "runhcs"},
		"for Linux":              {func(s *specs.Spec) { s.Linux, s.Windows = &specs.Linux{}, nil }, errdefs.ErrInvalidArgument, "Linux host"},
		"for nobody":             {func(s *specs.Spec) { s.Windows = nil }, errdefs.ErrInvalidArgument, "windows"},
		"HostProcess":            {func(s *specs.Spec) { s.Annotations = map[string]string{"microsoft.com/hostprocess-container": "true"} }, errdefs.ErrNotImplemented, "runhcs"},
		"no process":             {func(s *specs.Spec) { s.Process = nil }, errdefs.ErrInvalidArgument, "process"},
		"no args":                {func(s *specs.Spec) { s.Process.Args = nil }, errdefs.ErrInvalidArgument, "args"},
		"read-only root":         {func(s *specs.Spec) { s.Root = &specs.Root{Readonly: true} }, errdefs.ErrInvalidArgument, "read-only"},
		"hooks":                  {func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "x"}}} }, errdefs.ErrInvalidArgument, "hooks"},
		"uid":                    {func(s *specs.Spec) { s.Process.User.UID = 1000 }, errdefs.ErrInvalidArgument, "user.uid"},
		"capabilities":           {func(s *specs.Spec) { s.Process.Capabilities = &specs.LinuxCapabilities{} }, errdefs.ErrInvalidArgument, "capabilities"},
		"rlimits":                {func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE"}} }, errdefs.ErrInvalidArgument, "rlimits"},
		"seccomp's friend":       {func(s *specs.Spec) { s.Process.NoNewPrivileges = true }, errdefs.ErrInvalidArgument, "noNewPrivileges"},
		"environment":            {func(s *specs.Spec) { s.Process.Env = []string{"NOVALUE"} }, errdefs.ErrInvalidArgument, "NAME=VALUE"},
		"relative cwd":           {func(s *specs.Spec) { s.Process.Cwd = "tmp" }, errdefs.ErrInvalidArgument, "cwd"},
		"hostname":               {func(s *specs.Spec) { s.Hostname = "a b" }, errdefs.ErrInvalidArgument, "hostname"},
		"no layers":              {func(s *specs.Spec) { s.Windows.LayerFolders = nil }, errdefs.ErrInvalidArgument, "layerFolders"},
		"relative layer":         {func(s *specs.Spec) { s.Windows.LayerFolders[0] = "x" }, errdefs.ErrInvalidArgument, "absolute"},
		"root is no volume":      {func(s *specs.Spec) { s.Root = &specs.Root{Path: `C:\x`} }, errdefs.ErrInvalidArgument, "volume"},
		"no utility VM":          {func(s *specs.Spec) { s.Windows.HyperV = &specs.WindowsHyperV{UtilityVMPath: `C:\nowhere`} }, errdefs.ErrInvalidArgument, "utility VM"},
		"missing mount":          {mount(specs.Mount{Source: `C:\nowhere`, Destination: `C:\x`}), errdefs.ErrInvalidArgument, `C:\nowhere`},
		"Linux mount":            {mount(specs.Mount{Source: "proc", Destination: "/proc", Type: "proc"}), errdefs.ErrInvalidArgument, "type"},
		"disk":                   {mount(specs.Mount{Source: `C:\data`, Destination: `C:\x`, Type: "virtual-disk"}), errdefs.ErrNotImplemented, "runhcs"},
		"mount option":           {mount(specs.Mount{Source: `C:\data`, Destination: `C:\x`, Options: []string{"size=1"}}), errdefs.ErrInvalidArgument, "size=1"},
		"mount over the drive":   {mount(specs.Mount{Source: `C:\data`, Destination: `C:\`}), errdefs.ErrInvalidArgument, "own drive"},
		"mount above":            {mount(specs.Mount{Source: `C:\data`, Destination: `C:\a\..\..\b`}), errdefs.ErrInvalidArgument, "no name"},
		"mount at a stream":      {mount(specs.Mount{Source: `C:\data`, Destination: `C:\a:b`}), errdefs.ErrInvalidArgument, "no name"},
		"mounted twice":          {mount(specs.Mount{Source: `C:\data`, Destination: `C:\x`}, specs.Mount{Source: `C:\more`, Destination: `c:/X`}), errdefs.ErrInvalidArgument, "twice"},
		"relative source":        {mount(specs.Mount{Source: `data`, Destination: `C:\x`}), errdefs.ErrInvalidArgument, "absolute"},
		"pipe at a directory":    {mount(specs.Mount{Source: `\\.\pipe\a`, Destination: `C:\x`}), errdefs.ErrInvalidArgument, "named pipe"},
		"directory at a pipe":    {mount(specs.Mount{Source: `C:\data`, Destination: `\\.\pipe\a`}), errdefs.ErrInvalidArgument, "named pipe"},
		"pipe without a name":    {mount(specs.Mount{Source: `\\.\pipe\`, Destination: `\\.\pipe\a`}), errdefs.ErrInvalidArgument, "name of a pipe"},
		"no credentials":         {func(s *specs.Spec) { s.Windows.CredentialSpec = "{" }, errdefs.ErrInvalidArgument, "credentialSpec"},
		"wrong credentials":      {func(s *specs.Spec) { s.Windows.CredentialSpec = map[string]any{"a": 1} }, errdefs.ErrInvalidArgument, "CmsPlugins"},
		"namespace":              {network(specs.WindowsNetwork{NetworkNamespace: "x"}), errdefs.ErrInvalidArgument, "GUID"},
		"namespace and endpoint": {network(specs.WindowsNetwork{NetworkNamespace: namespace, EndpointList: []string{endpoint}}), errdefs.ErrInvalidArgument, "only one"},
		"endpoint":               {network(specs.WindowsNetwork{EndpointList: []string{"e"}}), errdefs.ErrInvalidArgument, "GUID"},
		"DNS":                    {network(specs.WindowsNetwork{DNSSearchList: []string{"a,b"}}), errdefs.ErrInvalidArgument, "DNSSearchList"},
		"newer image":            {version("10.0.26100.1"), errdefs.ErrInvalidArgument, "26100"},
		"older image":            {version("10.0.17763.1"), errdefs.ErrInvalidArgument, "Hyper-V"},
		"no version":             {version("six"), errdefs.ErrInvalidArgument, "version of Windows"},
		"device":                 {device("a", "class"), errdefs.ErrInvalidArgument, "GUID"},
		"kind of device":         {device(class, "usb"), errdefs.ErrInvalidArgument, "usb"},
	} {
		s := base()
		test.change(s)
		_, err := document.New(host{20348}, marshal(t, s), hcs.Layers{})
		if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v; want %v with %q", name, err, test.kind, test.says)
		}
	}
}

func TestCompatible(t *testing.T) {
	for _, test := range []struct {
		host   uint16
		image  string
		hyperV bool
		want   bool
	}{
		{17763, "10.0.17763.1", false, true},
		{17763, "10.0.14393.1", false, false},
		{17763, "10.0.14393", true, true},
		{20348, "10.0.20348.99999", false, true},
		{20348, "10.0.17763.1", false, false},
		{22621, "10.0.20348.1", false, true},
		{26100, "10.0.20348.1", false, true},
		{26100, "10.0.25398.1", false, true},
		{26200, "10.0.20348.1", false, false},
		{26200, "10.0.26100.1", false, true},
		{20348, "10.0.26100.1", true, false},
	} {
		s := base()
		s.Annotations = map[string]string{"org.opencontainers.image.os.version": test.image}
		if test.hyperV {
			s.Windows.HyperV = &specs.WindowsHyperV{}
		}
		if _, err := document.New(host{test.host}, marshal(t, s), hcs.Layers{}); (err == nil) != test.want {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

func TestUpdate(t *testing.T) {
	for in, want := range map[string]string{
		`{}`: "",
		`{"memory":{"limit":536870912},"cpu":{"maximum":5000}}`: `{"ResourcePath":"Container/Memory/SizeInMB","RequestType":"Update","Settings":512}` + "\n" +
			`{"ResourcePath":"Container/Processor","RequestType":"Update","Settings":{"Maximum":5000}}`,
	} {
		requests, err := document.Update(host{20348}, json.RawMessage(in))
		var got []string
		for _, r := range requests {
			got = append(got, string(r))
		}
		if text := strings.Join(got, "\n"); err != nil || text != want {
			t.Errorf("%s: %s, %v", in, text, err)
		}
	}
	for in, want := range map[string]error{
		`[`:                           errdefs.ErrInvalidArgument,
		`{"storage":{"iops":1}}`:      errdefs.ErrNotImplemented,
		`{"cpu":{"maximum":10001}}`:   errdefs.ErrInvalidArgument,
		`{"memory":{"limit":"lots"}}`: errdefs.ErrInvalidArgument,
	} {
		if _, err := document.Update(host{20348}, json.RawMessage(in)); !errors.Is(err, want) {
			t.Errorf("%s: %v", in, err)
		}
	}
}
