package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// overlay mounts an overlayfs. With id maps the lower layers are seen through an id-mapped mount, as containerd does it:
// what a container writes lands in the upper directory under the host's ids. Options longer than the page that mount(2)
// takes go through fsconfig(2) one by one (Linux 6.7), or as paths of descriptors on older kernels.
func overlay(source, path string, o options) error {
	var lowers, rest []string
	for _, s := range o.data {
		if v, ok := strings.CutPrefix(s, "lowerdir="); ok {
			lowers = splitLowers(v)
		} else {
			rest = append(rest, s)
		}
	}
	if len(lowers) == 0 {
		return fmt.Errorf("overlay without lowerdir: %w", errdefs.ErrInvalidArgument)
	}
	if o.mapped() {
		return overlayMapped(source, path, o, lowers, rest)
	}
	data := joinOverlay(lowers, rest)
	if len(data) < os.Getpagesize() {
		return unix.Mount(source, path, "overlay", o.flags, data)
	}
	err := overlayFsconfig(source, path, o.flags, lowers, rest)
	if err == nil || !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return overlayByDescriptor(source, path, o.flags, lowers, rest)
}

func joinOverlay(lowers, rest []string) string {
	return strings.Join(append([]string{"lowerdir=" + strings.Join(lowers, ":")}, rest...), ",")
}

// splitLowers splits at colons that are not escaped; escapes stay.
func splitLowers(s string) []string {
	var out []string
	start := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case ':':
			out = append(out, s[start:i])
			start = i + 1
		}
	}
	return append(out, s[start:])
}

// overlayMapped puts one id-mapped mount over the directory that all lower layers share and uses them below it.
func overlayMapped(source, path string, o options, lowers, rest []string) error {
	common := commonDir(lowers)
	tree, err := idmappedTree(common, o, false)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	mount := func(base string) error {
		mapped := make([]string, len(lowers))
		for i, l := range lowers {
			mapped[i] = filepath.Join(base, strings.TrimPrefix(l, common))
		}
		data := joinOverlay(mapped, rest)
		if len(data) < os.Getpagesize() {
			return unix.Mount(source, path, "overlay", o.flags, data)
		}
		return overlayByDescriptor(source, path, o.flags, mapped, rest)
	}
	// Linux 6.15 and later take layers from a mount that is attached nowhere.
	if err = mount(fdPath(tree)); err == nil || !errors.Is(err, unix.EINVAL) {
		return err
	}
	return attachedTemporarily(tree, mount)
}

func attachedTemporarily(tree int, fn func(path string) error) (err error) {
	dir, err := os.MkdirTemp("", "slipway-idmap-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	// The overlay keeps clones of its own.
	defer func() { err = errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)) }()
	return fn(dir)
}

// commonDir answers the deepest directory that holds every one of paths, all of them absolute and clean.
func commonDir(paths []string) string {
	dir := filepath.Dir(paths[0])
	for _, p := range paths[1:] {
		for dir != "/" && !strings.HasPrefix(p, dir+"/") {
			dir = filepath.Dir(dir)
		}
	}
	return dir
}

// overlayFsconfig hands lower layers over one by one: no limit but overlayfs's own 500, and 255 bytes for each path.
func overlayFsconfig(source, path string, flags uintptr, lowers, rest []string) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fs)
	set := func(key, value string) {
		if err == nil {
			if err = unix.FsconfigSetString(fs, key, value); err != nil {
				err = fmt.Errorf("fsconfig %s=%s: %w", key, value, err)
			}
		}
	}
	set("source", source)
	for _, l := range lowers {
		set("lowerdir+", unescape(l))
	}
	for _, s := range rest {
		if key, value, ok := strings.Cut(s, "="); ok {
			set(key, value)
		} else if err == nil {
			err = unix.FsconfigSetFlag(fs, key)
		}
	}
	if flags&unix.MS_RDONLY != 0 && err == nil {
		err = unix.FsconfigSetFlag(fs, "ro")
	}
	if err != nil {
		return err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("fsconfig create: %w%s", err, fsLog(fs))
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, mountAttrs(flags))
	if err != nil {
		return fmt.Errorf("fsmount: %w", err)
	}
	defer unix.Close(mnt)
	return unix.MoveMount(mnt, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS)
}

// mountAttrs translates the flags that belong to a mount rather than to its file system.
func mountAttrs(flags uintptr) (attrs int) {
	for _, f := range []struct {
		flag uintptr
		attr int
	}{
		{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY}, {unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID}, {unix.MS_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC}, {unix.MS_NOATIME, unix.MOUNT_ATTR_NOATIME},
		{unix.MS_STRICTATIME, unix.MOUNT_ATTR_STRICTATIME}, {unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME},
		{unix.MS_NOSYMFOLLOW, unix.MOUNT_ATTR_NOSYMFOLLOW},
	} {
		if flags&f.flag != 0 {
			attrs |= f.attr
		}
	}
	return attrs
}

// fsLog reads what the file system said about its refusal.
func fsLog(fs int) string {
	var b strings.Builder
	buf := make([]byte, 1024)
	for {
		n, err := unix.Read(fs, buf)
		if err != nil || n <= 0 {
			return b.String()
		}
		b.WriteString("; " + strings.TrimSpace(string(buf[:n])))
	}
}

func unescape(s string) string {
	return strings.NewReplacer(`\:`, ":", `\\`, `\`, `\,`, ",").Replace(s)
}

// overlayByDescriptor shortens every lower layer's path to that of a descriptor. 220 of them fit a page.
func overlayByDescriptor(source, path string, flags uintptr, lowers, rest []string) error {
	short := make([]string, len(lowers))
	for i, l := range lowers {
		fd, err := unix.Open(unescape(l), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("lower layer %q: %w", l, err)
		}
		defer unix.Close(fd)
		short[i] = fdPath(fd)
	}
	data := joinOverlay(short, rest)
	if len(data) >= os.Getpagesize() {
		return fmt.Errorf("%d lower layers are more than this kernel can mount: %w", len(lowers), errdefs.ErrInvalidArgument)
	}
	return unix.Mount(source, path, "overlay", flags, data)
}
