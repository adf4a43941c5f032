package cache

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPowerLoss tells the story on a file system of its own in a file. What that file holds at a moment is what a power
// failure would leave then; before each step a copy of it is mounted and looked at. It needs root, for loop devices.
func TestPowerLoss(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	run := func(command ...string) {
		t.Helper()
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", command, err, out)
		}
	}
	mount := func(image, target string) (umount func()) {
		t.Helper()
		if err := os.MkdirAll(target, 0o700); err != nil {
			t.Fatal(err)
		}
		// Nothing is to reach the disk because time has passed.
		run("mount", "-o", "loop,commit=600", image, target)
		return func() { run("umount", target) }
	}
	run("truncate", "-s", "8M", disk)
	if out, err := exec.Command("mkfs.ext4", "-q", "-J", "size=1", disk).CombinedOutput(); err != nil {
		t.Skipf("no ext4 here: %v: %s", err, out)
	}
	if out, err := exec.Command("losetup", "-f").CombinedOutput(); err != nil {
		t.Skipf("no loop device: %s", out)
	}
	live := filepath.Join(dir, "live")
	t.Cleanup(mount(disk, live))

	var mu sync.Mutex // syncs take steps side by side
	var told []string
	n := 0
	look := func(step string) error {
		mu.Lock()
		defer mu.Unlock()
		n++ // a new name each time: a loop device that lingers would be used again for the same file, stale cache and all
		copied := filepath.Join(dir, fmt.Sprint("copy", n))
		defer os.Remove(copied)
		if err := os.WriteFile(copied, snapshot(t, disk), 0o600); err != nil {
			t.Fatal(err)
		}
		after := filepath.Join(dir, "after")
		umount := mount(copied, after)
		defer umount()
		t.Run(step, func(t *testing.T) {
			found := open(t, filepath.Join(after, "cache"), Options{})
			checkStory(t, found, told)
			finishStory(t, found)
		})
		return nil
	}
	c := open(t, filepath.Join(live, "cache"), Options{step: look})
	if err := story(t, c, func(line string) { told = append(told, line) }); err != nil {
		t.Fatal(err)
	}
	_ = look("end")
	c.opts.step, c.journal.step = nil, nil // closing is no part of it
}

// snapshot reads a file as it is at one moment, although the kernel may be writing to it: twice the same is still.
func snapshot(t *testing.T, path string) []byte {
	t.Helper()
	var last []byte
	for {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(data, last) {
			return data
		}
		last = data
	}
}

// TestDiskFull fills a file system of 2 MB with what is held, lets go of some of it, and goes on. It needs root to mount it.
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	c := open(t, dir, Options{})
	const size = 300_000
	var held []*Entry
	var err error
	for i := 0; err == nil; i++ {
		if i == 50 {
			t.Fatal("the disk does not fill up")
		}
		e := acquire(t, c, fmt.Sprint(i), size)
		_, err = e.WriteAt(body(fmt.Sprint(i), size), 0)
		held = append(held, e)
	}
	if !errors.Is(err, ErrNoSpace) {
		t.Fatalf("write to a full disk: %v", err)
	}
	if err := c.Sync(); err != nil {
		t.Fatalf("sync on a full disk: %v", err)
	}
	last := len(held) - 1
	for i, e := range held[:last] {
		if n := check(t, e, fmt.Sprint(i)); n != size {
			t.Errorf("%d bytes of %d", n, i)
		}
	}
	held[0].Release()
	held[1].Release()
	write(t, held[last], fmt.Sprint(last), 0, size) // evicts one
	if n := check(t, held[last], fmt.Sprint(last)); n != size {
		t.Errorf("%d bytes after making room", n)
	}
	if st := c.Stats(); st.Evicted == 0 || st.Refused != 1 {
		t.Errorf("%+v", st)
	}
}
