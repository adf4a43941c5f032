package server_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/slipwayd/slipway/testsuite/fuselayer"
	"golang.org/x/sys/unix"
)

func TestAttach(t *testing.T) {
	m := mount(t, map[string]*fuselayer.Layer{"l1": layerOf(t, map[string]string{"file": "data"})}, nil)
	for _, c := range []struct {
		name string
		err  error
		want error
	}{
		{"again", m.Attach("l1", "l1"), errdefs.ErrAlreadyExists},
		{"without state", m.Attach("l2", "nowhere"), errdefs.ErrNotFound},
		{"no name", m.Attach("", "l1"), errdefs.ErrInvalidArgument},
		{"a path", m.Attach("../l1", "l1"), errdefs.ErrInvalidArgument},
		{"detach nothing", m.Detach("l2"), errdefs.ErrNotFound},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, c.err, c.want)
		}
	}
}

// TestCyclesShowNoOtherContent is criterion 26: names, paths and numbers are the same in all cycles, only the content differs,
// and everything is cached for ever.
func TestCyclesShowNoOtherContent(t *testing.T) {
	m := mount(t, map[string]*fuselayer.Layer{}, nil)
	var held []*os.File
	for i := range 300 {
		content := fmt.Sprintf("content %03d", i)
		files := map[string]string{"dir/file": content, fmt.Sprintf("only-%d", i): ""}
		m.layers["state"] = layerOf(t, files)
		m.layers["state"].Complete = func(int) bool { return i%2 == 0 }
		if err := m.Attach("layer", "state"); err != nil {
			t.Fatal(err)
		}
		if names := readNames(t, m.dir); fmt.Sprint(names) != "[layer]" {
			t.Fatalf("cycle %d: the root lists %v", i, names)
		}
		cycle(t, filepath.Join(m.dir, "layer"), content, fmt.Sprintf("only-%d", i))
		f, err := os.Open(filepath.Join(m.dir, "layer/dir/file"))
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 && i < 20 { // descriptors that outlive their layer show what they showed
			held = append(held, f)
		} else {
			f.Close()
		}
		if err := m.Detach("layer"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(m.dir, "layer")); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("cycle %d: after detaching: %v", i, err)
		}
		if names := readNames(t, m.dir); len(names) != 0 {
			t.Fatalf("cycle %d: after detaching, the root lists %v", i, names)
		}
	}
	for i, f := range held {
		data := make([]byte, 11)
		if _, err := f.ReadAt(data, 0); err != nil || string(data) != fmt.Sprintf("content %03d", 2*i) {
			t.Errorf("descriptor %d: %q, %v", i, data, err)
		}
		f.Close()
	}
}

// cycle reads a layer below an overlay.
func cycle(t *testing.T, lower, content, only string) {
	t.Helper()
	target := t.TempDir()
	if err := unix.Mount("overlay", target, "overlay", unix.MS_RDONLY, "lowerdir="+lower+":"+t.TempDir()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(target, 0); err != nil {
			t.Error(err)
		}
	}()
	if data, err := os.ReadFile(filepath.Join(target, "dir/file")); err != nil || string(data) != content {
		t.Fatalf("got %q, %v; want %q", data, err, content)
	}
	if names := readNames(t, target); fmt.Sprint(names) != "[dir "+only+"]" {
		t.Fatalf("%s is not in %v", only, names)
	}
}

func readNames(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
