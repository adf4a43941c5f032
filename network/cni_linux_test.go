package network

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// plugin answers as a CNI plugin does, and writes what it was asked to a file.
const plugin = `#!/bin/sh
dir=$(dirname "$0")
{ echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_ARGS"; cat; echo; } >> "$dir/calls"
[ ! -e "$dir/fail-$CNI_COMMAND" ] || { echo '{"cniVersion":"1.1.0","code":50,"msg":"not today"}'; exit 1; }
case $CNI_COMMAND in
ADD) echo '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0"}],"ips":[{"address":"10.1.2.3/24","interface":0},{"address":"fd00::3/64","interface":0}]}' ;;
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}' ;;
esac
`

type fixture struct {
	*CNI
	t   *testing.T
	dir string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir()}
	f.CNI = New(Config{ConfigDir: filepath.Join(f.dir, "conf"), PluginDirs: []string{f.dir}, CacheDir: filepath.Join(f.dir, "cache")})
	f.write("plug", plugin)
	return f
}

func (f *fixture) write(name, text string) {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) configure(file, name string) {
	f.write("conf/"+file, fmt.Sprintf(`{"cniVersion":"1.1.0","name":%q,"plugins":[{"type":"plug","capabilities":{"portMappings":true}}]}`, name))
}

// calls are those since it was called last.
func (f *fixture) calls() string {
	data, _ := os.ReadFile(filepath.Join(f.dir, "calls"))
	_ = os.Remove(filepath.Join(f.dir, "calls"))
	return string(data)
}

func TestAttachAndDetach(t *testing.T) {
	f := newFixture(t)
	f.configure("10-a.conflist", "net-a")
	pod := Pod{ID: "pod1", Name: "web", Namespace: "ns", UID: "u", NetNS: f.dir, Ports: []Port{{Protocol: "tcp", Container: 80, Host: 8080}, {Protocol: "tcp", Container: 81}}}
	a, err := f.Attach(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.IPs) != 2 || a.IPs[0] != "10.1.2.3" || a.IPs[1] != "fd00::3" {
		t.Errorf("addresses %q", a.IPs)
	}
	calls := f.calls()
	for _, want := range []string{"ADD pod1 " + f.dir, "K8S_POD_NAME=web", `"hostPort":8080`} {
		if !strings.Contains(calls, want) {
			t.Errorf("%q is not in %s", want, calls)
		}
	}
	if strings.Contains(calls, `"containerPort":81`) {
		t.Error("a port without one of the host is mapped")
	}
	// Detached by what it was attached with, whatever the configuration is now.
	f.configure("05-b.conflist", "net-b")
	if err := f.Detach(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if calls = f.calls(); !strings.Contains(calls, "DEL pod1") || !strings.Contains(calls, `"name":"net-a"`) {
		t.Errorf("calls: %s", calls)
	}
	// Again, and for a pod that was begun to be attached and whose namespace is gone.
	pod.NetNS = filepath.Join(f.dir, "gone")
	if err := f.Detach(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if calls = f.calls(); !strings.Contains(calls, "DEL pod1  ") {
		t.Errorf("calls: %s", calls)
	}
}

func TestConfigurationIsReadAgain(t *testing.T) {
	f := newFixture(t)
	pod := Pod{ID: "pod1", Name: "web", Namespace: "ns", NetNS: f.dir}
	if err := f.Status(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("status without configuration: %v", err)
	}
	if _, err := f.Attach(t.Context(), pod); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("attached without configuration: %v", err)
	}
	if err := f.Detach(t.Context(), pod); err != nil {
		t.Errorf("nothing to detach: %v", err)
	}
	f.configure("10-a.conflist", "net-a")
	if err := f.Status(t.Context()); err != nil {
		t.Errorf("status with configuration: %v", err)
	}
	f.write("conf/00-bad.conflist", "{")
	if err := f.Status(t.Context()); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "00-bad.conflist") {
		t.Errorf("status with bad configuration: %v", err)
	}
	f.configure("00-bad.conflist", "net-c")
	f.write("fail-STATUS", "")
	if err := f.Status(t.Context()); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "not today") {
		t.Errorf("status of plugins that are not ready: %v", err)
	}
}

// TestOnePlugin: files of a single plugin are read too.
func TestOnePlugin(t *testing.T) {
	f := newFixture(t)
	f.write("conf/10-a.conf", `{"cniVersion":"1.0.0","name":"single","type":"plug"}`)
	a, err := f.Attach(t.Context(), Pod{ID: "pod1", Name: "web", Namespace: "ns", NetNS: f.dir})
	if err != nil || len(a.IPs) != 2 || !strings.Contains(f.calls(), `"name":"single"`) {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestRefusals(t *testing.T) {
	f := newFixture(t)
	f.configure("10-a.conflist", "net-a")
	if _, err := f.Attach(t.Context(), Pod{ID: "pod1", Name: "a;IgnoreUnknown=0", Namespace: "ns", NetNS: f.dir}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a name that is more than one argument: %v", err)
	}
	f.write("fail-ADD", "")
	if _, err := f.Attach(t.Context(), Pod{ID: "pod1", Name: "a", Namespace: "ns", NetNS: f.dir}); err == nil || !strings.Contains(err.Error(), "not today") {
		t.Errorf("plugin that fails: %v", err)
	}
}

// TestCollect: plugins are told whose attachments hold, and those of ours that do not are undone.
func TestCollect(t *testing.T) {
	f := newFixture(t)
	if err := f.Collect(t.Context(), nil); err != nil {
		t.Errorf("without a network: %v", err)
	}
	f.configure("10-a.conflist", "net-a")
	for _, id := range []string{"pod1", "pod2"} {
		if _, err := f.Attach(t.Context(), Pod{ID: id, Name: "web", Namespace: "ns", NetNS: f.dir}); err != nil {
			t.Fatal(err)
		}
	}
	f.calls()
	if err := f.Collect(t.Context(), []string{"pod2"}); err != nil {
		t.Fatal(err)
	}
	calls := f.calls()
	for _, want := range []string{"DEL pod1", "GC ", `"containerID":"pod2"`} {
		if !strings.Contains(calls, want) {
			t.Errorf("%q is not in %s", want, calls)
		}
	}
	if strings.Contains(calls, "DEL pod2") {
		t.Errorf("a pod that lives was detached: %s", calls)
	}
	f.write("fail-GC", "")
	if err := f.Collect(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "not today") {
		t.Errorf("a plugin that fails: %v", err)
	}
}
