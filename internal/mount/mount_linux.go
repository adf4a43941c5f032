package mount

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/storage"
)

// one mounts m and answers how to take exactly that mount down again.
func one(target string, m storage.Mount) (undo func(), err error) {
	opts, err := parse(m.Options)
	if err != nil {
		return nil, err
	}
	path, name, release, err := resolve(target, m.Target)
	if err != nil {
		return nil, kind(err)
	}
	defer release()
	switch {
	case opts.flags&unix.MS_BIND != 0 || m.Type == "bind" || m.Type == "rbind":
		if m.Type == "rbind" {
			opts.flags |= unix.MS_REC
		}
		err = bind(m.Source, path, name, opts)
	case m.Type == "overlay":
		err = overlay(m.Source, path, opts)
	default:
		err = plain(m, path, opts)
	}
	if err != nil {
		return nil, kind(err)
	}
	undo = func() { _ = unix.Unmount(name, unix.MNT_DETACH) }
	if err := propagate(name, opts); err != nil {
		undo()
		return nil, kind(err)
	}
	return undo, nil
}

// resolve finds sub inside root as the container would see it. Until release is called path keeps meaning the place that
// was found, whatever happens to the names on the way; name is what it is called, for what comes after a mount covers it.
func resolve(root, sub string) (path, name string, release func(), err error) {
	if strings.Trim(sub, "/") == "" {
		return root, root, func() {}, nil
	}
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", "", nil, err
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, sub, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return "", "", nil, err
	}
	if name, err = os.Readlink(fdPath(fd)); err != nil {
		unix.Close(fd)
		return "", "", nil, err
	}
	return fdPath(fd), name, func() { unix.Close(fd) }, nil
}

func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

func plain(m storage.Mount, path string, o options) error {
	if o.mapped() {
		return fmt.Errorf("uidmap and gidmap are for bind and overlay mounts only: %w", errdefs.ErrInvalidArgument)
	}
	data := strings.Join(o.data, ",")
	if len(data) >= os.Getpagesize() {
		return fmt.Errorf("mount options are longer than a page: %w", errdefs.ErrInvalidArgument)
	}
	return unix.Mount(m.Source, path, m.Type, o.flags, data)
}

// bind mounts source's tree. Flags other than recursion do not take effect in the first mount(2) of a bind, so that the
// tree is prepared detached where it must be id-mapped, and remounted otherwise.
func bind(source, path, name string, o options) error {
	rec := o.flags & unix.MS_REC
	if o.mapped() {
		fd, err := idmappedTree(source, o, rec != 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.MoveMount(fd, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS); err != nil {
			return fmt.Errorf("move_mount: %w", err)
		}
	} else if err := unix.Mount(source, path, "", unix.MS_BIND|rec, ""); err != nil {
		return err
	}
	flags := o.flags &^ (unix.MS_BIND | unix.MS_REC)
	if flags == 0 {
		return nil
	}
	if err := unix.Mount("", name, "", unix.MS_BIND|unix.MS_REMOUNT|flags, ""); err != nil {
		_ = unix.Unmount(name, unix.MNT_DETACH)
		return fmt.Errorf("remount with flags %#x: %w", flags, err)
	}
	return nil
}

func propagate(path string, o options) error {
	if o.propagation == 0 {
		return nil
	}
	return unix.Mount("", path, "", o.propagation, "")
}

func unmount(target string) error {
	for {
		err := unix.Unmount(target, unix.MNT_DETACH)
		switch {
		case err == nil: // perhaps another mount is underneath
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			return nil
		default:
			return fmt.Errorf("cannot unmount %q: %w", target, kind(err))
		}
	}
}

func temp(dir string, mounts []storage.Mount, fn func(string) error) (err error) {
	root, err := os.MkdirTemp(dir, "slipway-mount-")
	if err != nil {
		return err
	}
	// Remove, not RemoveAll: should the unmount fail, nothing of the layer below may be deleted.
	defer func() { err = errors.Join(err, unmount(root), os.Remove(root)) }()
	if err := All(root, mounts); err != nil {
		return err
	}
	return fn(root)
}

// kind joins the kernel's error with the errdefs kind that callers act on.
func kind(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%w (%w)", err, errdefs.ErrNotFound)
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w; the kernel lacks it (%w)", err, errdefs.ErrFailedPrecondition)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w (%w)", err, errdefs.ErrPermissionDenied)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENAMETOOLONG):
		return fmt.Errorf("%w (%w); the kernel log may say more", err, errdefs.ErrInvalidArgument)
	}
	return err
}
