package pods

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/spec"
)

func manifest(names ...string) string {
	s := savedPod{Version: savedVersion, Runtime: "r"}
	for _, n := range names {
		s.Containers = append(s.Containers, savedContainer{Name: n, ImageID: "sha256:1", Env: []string{"A=1"}})
	}
	data, _ := json.Marshal(s)
	return string(data)
}

func TestParseSaved(t *testing.T) {
	if s, err := parseSaved([]byte(manifest("main", "side.car"))); err != nil || len(s.Containers) != 2 || s.Containers[1].Name != "side.car" {
		t.Fatalf("got %+v, %v", s, err)
	}
	for what, text := range map[string]string{
		"nothing":              "",
		"not JSON":             "pod",
		"a list":               "[]",
		"an unknown field":     strings.Replace(manifest("a"), `{"Version"`, `{"More":1,"Version"`, 1),
		"something behind it":  manifest("a") + "{}",
		"another version":      strings.Replace(manifest("a"), `"Version":1`, `"Version":2`, 1),
		"no runtime":           strings.Replace(manifest("a"), `"r"`, `""`, 1),
		"no containers":        manifest(),
		"a name twice":         manifest("a", "a"),
		"no name":              manifest(""),
		"the directory above":  manifest(".."),
		"the directory itself": manifest("."),
		"a path":               manifest("a/../../b"),
		"a path of Windows":    manifest(`a\b`),
		"the manifest's name":  manifest(savedFile),
		"a long name":          manifest(strings.Repeat("a", 256)),
	} {
		if _, err := parseSaved([]byte(text)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v, want InvalidArgument", what, err)
		}
	}
}

func FuzzParseSaved(f *testing.F) {
	f.Add([]byte(manifest("main", "side")))
	f.Add([]byte(manifest("..")))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseSaved(data)
		if err != nil {
			return
		}
		for _, c := range s.Containers {
			if filepath.Dir(filepath.Join("/d", c.Name)) != "/d" {
				t.Errorf("name %q leads elsewhere", c.Name)
			}
		}
	})
}

// TestReadSaved: what is no regular file of the checkpoint is neither followed nor waited for.
func TestReadSaved(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "pod.json")
	if err := os.WriteFile(outside, []byte(manifest("a")), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, make := range map[string]func(name string) error{
		"":                  func(name string) error { return os.WriteFile(name, []byte(manifest("a")), 0o600) },
		"nothing":           func(string) error { return nil },
		"a directory":       func(name string) error { return os.Mkdir(name, 0o700) },
		"a link to outside": func(name string) error { return os.Symlink(outside, name) },
		"a file too big": func(name string) error {
			return os.WriteFile(name, []byte(manifest("a")+strings.Repeat(" ", maxSaved)), 0o600)
		},
	} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, savedDir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := make(filepath.Join(dir, savedDir, savedFile)); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		_, err = readSaved(root)
		root.Close()
		if what == "" && err != nil || what != "" && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestSavedDiffers(t *testing.T) {
	a := savedContainer{Name: "a", ImageID: "i", Command: []string{"sh", "-c"}, Args: []string{"x"}}
	b := a
	b.Command, b.Args = []string{"sh"}, []string{"-c", "x"} // the same words
	if what := a.differs(b); what != "" {
		t.Errorf("differs in %q", what)
	}
	b.ImageID, b.WorkingDir, b.Namespaces.Network = "j", "/", spec.ModeNode
	if what := a.differs(b); what != "image, working directory, namespaces" {
		t.Errorf("differs in %q", what)
	}
}

func TestMatchSaved(t *testing.T) {
	m := testManager(t)
	m.conf.Runtimes = map[string]Runtime{"": {}, "r": {Name: "r", Snapshotter: "s"}, "other": {Name: "other", Snapshotter: "s"}}
	saved, err := parseSaved([]byte(manifest("a", "b")))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		handler, names string
		ok             func(error) bool
	}{
		{"r", "b a", func(err error) bool { return err == nil }},
		{"r", "a", errdefs.IsInvalidArgument},
		{"r", "a a", errdefs.IsInvalidArgument},
		{"r", "a b c", errdefs.IsInvalidArgument},
		{"r", "a c", errdefs.IsInvalidArgument},
		{"other", "a b", errdefs.IsInvalidArgument},
		{"unknown", "a b", errdefs.IsNotFound},
	} {
		var list []*spec.PodContainer
		for _, name := range strings.Fields(test.names) {
			list = append(list, &spec.PodContainer{Name: name})
		}
		if _, err := m.match(saved, &spec.Pod{Handler: test.handler}, list); !test.ok(err) {
			t.Errorf("runtime %s, containers %s: %v", test.handler, test.names, err)
		}
	}
}
