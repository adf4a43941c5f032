package content_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
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
	live := filepath.Join(dir, "live")
	if out, err := exec.Command("losetup", "-f").CombinedOutput(); err != nil {
		t.Skipf("no loop device: %s", out)
	}
	t.Cleanup(mount(disk, live))
	s := open(t, filepath.Join(live, "store"))

	var told []string
	n := 0
	look := func(step string) error {
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
			found := open(t, filepath.Join(after, "store"))
			checkStory(t, found, told, true)
			finishStory(t, found, filepath.Join(after, "store"))
		})
		return nil
	}
	s.SetStep(look)
	if err := story(t, s, func(line string) { told = append(told, line) }); err != nil {
		t.Fatal(err)
	}
	_ = look("end")
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
