package network

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pluginEnv has this program be a CNI plugin: plug.exe is a copy of it.
const pluginEnv = "SLIPWAY_TEST_PLUGIN"

func TestMain(m *testing.M) {
	if os.Getenv(pluginEnv) != "" && os.Getenv("CNI_COMMAND") != "" {
		beAPlugin()
		return
	}
	os.Exit(m.Run())
}

// beAPlugin answers, and writes what it was asked to a file beside it.
func beAPlugin() {
	config, _ := io.ReadAll(os.Stdin)
	self, _ := os.Executable()
	calls, err := os.OpenFile(filepath.Join(filepath.Dir(self), "calls"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err == nil {
		fmt.Fprintln(calls, os.Getenv("CNI_COMMAND"), os.Getenv("CNI_CONTAINERID"), os.Getenv("CNI_NETNS"), string(config))
		calls.Close()
	}
	switch os.Getenv("CNI_COMMAND") {
	case "ADD":
		fmt.Println(`{"cniVersion":"1.1.0","interfaces":[{"name":"eth0"}],"ips":[{"address":"172.28.1.3/20","interface":0}]}`)
	case "VERSION":
		fmt.Println(`{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}`)
	}
}

// TestNamespaceGUID: plugins of Windows get the namespace's GUID, also when they are to take the pod off.
func TestNamespaceGUID(t *testing.T) {
	t.Setenv(pluginEnv, "1")
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"plug.exe":               program,
		"conf/10-nat.conflist":   []byte(`{"cniVersion":"1.1.0","name":"nat","plugins":[{"type":"plug","capabilities":{"portMappings":true}}]}`),
		"conf/20-later.conflist": []byte(`{"cniVersion":"1.1.0","name":"later","plugins":[{"type":"none"}]}`),
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := New(Config{ConfigDir: filepath.Join(dir, "conf"), PluginDirs: []string{dir}, CacheDir: filepath.Join(dir, "cache")})
	if err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	pod := Pod{ID: "pod1", Name: "web", Namespace: "ns", UID: "u", NetNS: "b3a1c6d2-7e55-4c1e-9a0b-2f8b1f1a6a11", Ports: []Port{{Protocol: "tcp", Container: 80, Host: 8080}}}
	a, err := c.Attach(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.IPs) != 1 || a.IPs[0] != "172.28.1.3" {
		t.Errorf("addresses %q", a.IPs)
	}
	if err := c.Detach(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ADD pod1 " + pod.NetNS, "DEL pod1 " + pod.NetNS, `"hostPort":8080`} {
		if !strings.Contains(string(calls), want) {
			t.Errorf("%q is not in %s", want, calls)
		}
	}
}
