package layerdir

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What a full disk needs is that something can be removed.
func TestRemoveOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,nr_inodes=32"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	r := open(t, dir)
	if err := r.Create("a", touch); err != nil {
		t.Fatal(err)
	}
	var err error
	for i := 0; err == nil && i < 100; i++ {
		err = os.Mkdir(filepath.Join(dir, fmt.Sprint("fill", i)), 0o700)
	}
	if err == nil {
		t.Fatal("the disk does not fill up")
	}
	if err := r.Remove("a"); err != nil {
		t.Fatal(err)
	}
}
