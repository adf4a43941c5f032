package overlay

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/internal/mount"
	"github.com/slipwayd/slipway/storage"
)

// kernelOptions answers the mount options that give layers a meaning which neither depends on the kernel's defaults nor
// is lost in a tar, and the prefix of overlayfs's attributes.
func kernelOptions() (options []string, xattrPrefix string) {
	const params = "/sys/module/overlay/parameters/"
	if _, err := os.Stat(params + "index"); err == nil {
		options = append(options, "index=off") // else a lower layer that was copied or moved cannot be mounted
	}
	for _, name := range []string{"redirect_dir", "metacopy"} {
		// Named only where needed: BuildKit takes the slow way when it sees options that it does not know.
		if on, err := os.ReadFile(params + name); err == nil && bytes.HasPrefix(on, []byte("Y")) {
			options = append(options, name+"=off")
		}
	}
	if userns.RunningInUserNS() {
		return append(options, "userxattr"), "user.overlay."
	}
	return options, "trusted.overlay."
}

// probe mounts an overlay in the driver's directory and deletes a file of its lower layer.
func (d *Driver) probe() (err error) {
	dir, err := os.MkdirTemp(filepath.Join(d.root.Dir(), ".new"), "probe-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, sub := range []string{"lower/sub", "upper", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return err
		}
	}
	if err := dirTypes(filepath.Join(dir, "lower")); err != nil {
		return err
	}
	m := storage.Mount{Type: "overlay", Source: "overlay", Options: append([]string{
		"lowerdir=" + dir + "/lower", "upperdir=" + dir + "/upper", "workdir=" + dir + "/work"}, d.options...)}
	return mount.Temp(dir, []storage.Mount{m}, func(root string) error {
		if err := os.Remove(filepath.Join(root, "sub")); err != nil {
			return fmt.Errorf("cannot delete what is in a lower layer: %w", err)
		}
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, "upper/sub"), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
			return errors.New("deleting what is in a lower layer leaves no whiteout")
		}
		return nil
	})
}

// dirTypes fails when the file system does not say in a directory what kind of file a name is: overlayfs on it would show
// deleted files.
func dirTypes(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buf := make([]byte, 4096)
	n, err := unix.ReadDirent(fd, buf)
	if err != nil {
		return err
	}
	const reclen, kind = 16, 18 // offsets in struct linux_dirent64 (getdents64(2))
	for rec := buf[:n]; len(rec) > kind; {
		if rec[kind] == unix.DT_UNKNOWN {
			return errors.New("its file system does not support d_type (on XFS: make it with ftype=1)")
		}
		rec = rec[int(rec[reclen])|int(rec[reclen+1])<<8:]
	}
	return nil
}
