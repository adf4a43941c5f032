package opened

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
)

// TestWatch opens files in a file system of its own, from here and from another mount namespace. It needs root.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Skip("cannot mount: ", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error("the watch holds the mount: ", err)
		}
	})
	write := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"first", "second", "gone"} {
		write(name)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := New(dir)
	if errdefs.IsNotImplemented(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) {
		t.Helper()
		if _, err := os.ReadFile(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	read("first")
	read("first")
	pipe, err := os.OpenFile(filepath.Join(dir, "pipe"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	pipe.Close()
	other := exec.Command("unshare", "-m", "cat", filepath.Join(dir, "second"), "-") // which has its mounts until its input ends
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := other.StdoutPipe()
	if err == nil {
		err = other.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = other.Wait() }()
	text := make([]byte, len("second"))
	if _, err := io.ReadFull(out, text); err != nil || string(text) != "second" {
		t.Fatalf("%s %v", text, err)
	}
	read("gone")
	if err := os.Remove(filepath.Join(dir, "gone")); err != nil {
		t.Fatal(err)
	}
	files, err := w.Files()
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Path)
	}
	if got := fmt.Sprint(names); got != "[first second gone]" {
		t.Errorf("opened were %s", got)
	}
}

// TestEvents gives what no kernel writes.
func TestEvents(t *testing.T) {
	w := &Watch{known: map[string]bool{}}
	for _, buf := range [][]byte{nil, {1, 2, 3}, make([]byte, 24), append([]byte{200, 0, 0, 0, 3}, make([]byte, 40)...), append([]byte{24, 0, 0, 0, 9}, make([]byte, 19)...)} {
		w.events(buf)
	}
	if len(w.files) > 0 {
		t.Errorf("%v", w.files)
	}
}
