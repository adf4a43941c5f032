package powercut

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

// CutPower looks, before each step of the story and after the last, at what a power failure would leave. It needs root, for loop
// devices, and skips without.
func (s Story) CutPower(t *testing.T) {
	d := newDisk(t)
	live := filepath.Join(d.dir, "live")
	t.Cleanup(d.mount(d.image, live))
	var mu sync.Mutex // steps may be taken side by side
	var told []string
	n, ended := 0, false
	look := func(step string) error {
		mu.Lock()
		defer mu.Unlock()
		if ended {
			return nil
		}
		n++
		s.lookAfter(d, n, step, told)
		return nil
	}
	tell := func(line string) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, line)
	}
	if err := s.Tell(t, filepath.Join(live, "told in"), look, tell); err != nil {
		t.Fatal(err)
	}
	_ = look("end")
	mu.Lock()
	ended = true // closing is no part of it
	mu.Unlock()
	if n <= s.Steps {
		t.Errorf("the story has only %d steps", n-1)
	}
}

// lookAfter mounts a copy of the disk and looks. It has a new name each time: a loop device that lingers would be used again for the
// same file, stale cache and all.
func (s Story) lookAfter(d *disk, n int, step string, told []string) {
	copied := filepath.Join(d.dir, fmt.Sprint("copy", n))
	defer os.Remove(copied)
	if err := os.WriteFile(copied, d.still(), 0o600); err != nil {
		d.t.Fatal(err)
	}
	after := filepath.Join(d.dir, "after")
	umount := d.mount(copied, after)
	defer umount()
	d.t.Run(step, func(t *testing.T) { s.Look(t, filepath.Join(after, "told in"), slices.Clone(told), true) })
}

// disk is an ext4 in a file.
type disk struct {
	t          *testing.T
	dir, image string
}

func newDisk(t *testing.T) *disk {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	d := &disk{t: t, dir: t.TempDir()}
	d.image = filepath.Join(d.dir, "disk")
	f, err := os.Create(d.image)
	if err == nil {
		err = f.Truncate(8 << 20)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, need := range [][]string{{"mkfs.ext4", "-q", "-J", "size=1", d.image}, {"losetup", "-f"}} {
		if out, err := exec.Command(need[0], need[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%s: %v: %s", need[0], err, out)
		}
	}
	return d
}

// mount has nothing reach the disk because time has passed.
func (d *disk) mount(image, at string) (umount func()) {
	d.t.Helper()
	if err := os.MkdirAll(at, 0o700); err != nil {
		d.t.Fatal(err)
	}
	d.run("mount", "-o", "loop,commit=600", image, at)
	return func() { d.run("umount", at) }
}

func (d *disk) run(command ...string) {
	d.t.Helper()
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		d.t.Fatalf("%q: %v: %s", command, err, out)
	}
}

// still reads the disk as it is at one moment, although the kernel may be writing to it: twice the same is still.
func (d *disk) still() []byte {
	d.t.Helper()
	var last []byte
	for {
		data, err := os.ReadFile(d.image)
		if err != nil {
			d.t.Fatal(err)
		}
		if bytes.Equal(data, last) {
			return data
		}
		last = data
	}
}
