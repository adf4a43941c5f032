package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// flags of clone(2) for the namespaces, in the order in which they are made and joined.
var kinds = []struct {
	name string
	flag uintptr
}{{Net, unix.CLONE_NEWNET}, {IPC, unix.CLONE_NEWIPC}, {UTS, unix.CLONE_NEWUTS}}

func makeSandbox(dir string, o Options) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o711); err != nil {
		return fmt.Errorf("cannot make the directory of sandboxes: %w", err)
	}
	if err := os.Mkdir(dir, 0o711); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("sandbox %s is there already: %w", dir, errdefs.ErrAlreadyExists)
	} else if err != nil {
		return fmt.Errorf("cannot make sandbox: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("cannot make sandbox: %w", err), remove(dir))
		}
	}()
	if err := mountOwn(dir); err != nil {
		return err
	}
	for name, data := range o.Files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	if o.ShmSize > 0 {
		if err := mountShm(dir, o); err != nil {
			return err
		}
	}
	return makeNamespaces(dir, o)
}

// ownSize bounds a sandbox's files in bytes.
const ownSize = 32 << 20

// mountOwn makes dir a file system of its own: each unmounting waits for all processors of the host, and this way one is enough for
// all that is mounted below.
func mountOwn(dir string) error {
	if err := unix.Mount("sandbox", dir, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=711,size=%d", ownSize)); err != nil {
		return fmt.Errorf("cannot mount the sandbox's directory: %w", err)
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil { // what is below is nobody else's
		return fmt.Errorf("cannot mount the sandbox's directory: %w", err)
	}
	return nil
}

func mountShm(dir string, o Options) error {
	if err := os.Mkdir(ShmPath(dir), 0o711); err != nil {
		return err
	}
	data := fmt.Sprintf("mode=1777,size=%d,uid=%d,gid=%d", o.ShmSize, root(o.UIDs), root(o.GIDs))
	if err := unix.Mount("shm", ShmPath(dir), "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		return fmt.Errorf("cannot mount shared memory: %w", err)
	}
	return nil
}

// root is the host's id of the namespace's root.
func root(maps []IDMap) uint32 {
	for _, m := range maps {
		if m.Container == 0 {
			return m.Host
		}
	}
	return 0
}

func pin(dir, kind string, pid int) error {
	if err := unpin(dir, kind); err != nil {
		return fmt.Errorf("cannot unpin the %s namespace of an earlier process: %w", kind, err)
	}
	if err := bind(dir, kind, fmt.Sprintf("/proc/%d/ns/%s", pid, kind)); err != nil {
		return fmt.Errorf("cannot pin the %s namespace of process %d: %w", kind, pid, err)
	}
	return nil
}

// unpin takes away what an earlier pin left, whole or cut short.
func unpin(dir, kind string) error {
	target := NamespacePath(dir, kind)
	if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func bind(dir, kind, source string) error {
	target := NamespacePath(dir, kind)
	if err := os.MkdirAll(filepath.Dir(target), 0o711); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return unix.Mount(source, target, "", unix.MS_BIND, "")
}

func alive(dir string, kinds []string) bool {
	if _, err := os.Stat(dir); err != nil {
		return false
	}
	for _, kind := range kinds {
		var st unix.Statfs_t
		if unix.Statfs(NamespacePath(dir, kind), &st) != nil || st.Type != unix.NSFS_MAGIC {
			return false
		}
	}
	return true
}

func remove(dir string) error {
	for {
		err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		} else if err != nil {
			return fmt.Errorf("cannot remove sandbox: cannot unmount %s: %w", dir, err)
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) { // it is empty below its mount
		return fmt.Errorf("cannot remove sandbox: %w", err)
	}
	return nil
}
