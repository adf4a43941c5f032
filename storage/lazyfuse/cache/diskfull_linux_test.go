package cache

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

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
