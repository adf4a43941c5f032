package windowsfilter

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// immutable makes a directory one that cannot be renamed, as Windows' are while something of them is open.
func immutable(dir string, on bool) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	flags := 0
	if on {
		flags = 0x10 // FS_IMMUTABLE_FL (linux/fs.h)
	}
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags)
}

// detaching is a host whose Detach lets go of a directory.
type detaching struct {
	*fakeHost
	lets bool
}

func (h detaching) Detach(dir string) error {
	if !h.lets {
		return errors.Join(h.call("Detach", dir), errors.New("in use"))
	}
	return errors.Join(h.call("Detach", dir), immutable(filepath.Dir(dir), false))
}

func TestRemoveDetachesWhatACrashLeftAttached(t *testing.T) {
	d, host := openStack(t)
	create(t, d, active("3", "2", "1"))
	held := filepath.Join(d.root.Dir(), "layer3")
	if err := immutable(held, true); err != nil {
		t.Skip("this needs root and a file system with flags:", err)
	}
	t.Cleanup(func() { _ = immutable(held, false) })
	d.host = detaching{host, false}
	if err := d.Remove(t.Context(), "3"); !errdefs.IsUnavailable(err) || !exists(held) {
		t.Fatalf("Remove of what is in use: %v", err)
	}
	d.host = detaching{host, true}
	if err := d.Remove(t.Context(), "3"); err != nil {
		t.Fatal(err)
	}
	if exists(held) || !slices.Contains(host.calls, "Detach scratch3") {
		t.Errorf("it is still there: %v", host.calls)
	}
}
