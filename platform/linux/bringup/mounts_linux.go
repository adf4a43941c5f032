package bringup

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/platform/linux/child"
)

// enterRoot makes the root file system a mount of its own that nothing outside sees, and opens it.
func (b *builder) enterRoot() {
	c := b.Config
	flags := unix.MS_SLAVE | unix.MS_REC
	if c.RootPropagation != 0 {
		flags = c.RootPropagation
	}
	b.Call("change the propagation of mounts", unix.SYS_MOUNT, "", "/", 0, flags, 0)
	// pivot_root refuses a root whose parent mount is shared, and mounts would be seen there.
	flags = unix.MS_PRIVATE
	if c.RootPropagation&unix.MS_SLAVE != 0 {
		flags = unix.MS_SLAVE
	}
	found := b.Label()
	for at := c.Rootfs; ; at = filepath.Dir(at) {
		s := b.Call("change the propagation of mount "+at, unix.SYS_MOUNT, "", at, 0, flags, 0).Then(found)
		if at == "/" {
			break
		}
		s.Ignore(unix.EINVAL) // it is no mount
	}
	b.Place(found)
	b.Call("mount the root file system "+c.Rootfs, unix.SYS_MOUNT, c.Rootfs, c.Rootfs, 0, unix.MS_BIND|unix.MS_REC, 0)
	b.root = b.Words(1)
	b.Call("open the root file system", unix.SYS_OPENAT, unix.AT_FDCWD, c.Rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0).Into(b.root)
}

// mount adds one of the spec's mounts.
func (b *builder) mount(m *configs.Mount) {
	switch m.Device {
	case "bind":
		b.bind(m.Source, m.Destination, m)
	case "cgroup":
		b.await()
		b.mountCgroup(m)
	case "tmpfs":
		b.filesystem(m, b.tmpfsData(m), m.Flags&^unix.MS_RDONLY) // read-only when all is in it
	default:
		flags := m.Flags
		if clean(m.Destination) == "/dev" {
			flags &^= unix.MS_RDONLY
		}
		b.filesystem(m, m.Data, flags)
	}
}

// tmpfsData gives a tmpfs without a mode that of the directory it covers.
func (b *builder) tmpfsData(m *configs.Mount) string {
	for option := range strings.SplitSeq(m.Data, ",") {
		if strings.HasPrefix(option, "mode=") {
			return m.Data
		}
	}
	root, err := os.OpenFile(b.Config.Rootfs, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return m.Data // the child will tell
	}
	defer root.Close()
	covered, err := unix.Openat2(int(root.Fd()), clean(m.Destination)[1:], &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: inRoot})
	if err != nil {
		return m.Data
	}
	defer unix.Close(covered)
	var st unix.Stat_t
	if unix.Fstat(covered, &st) != nil {
		return m.Data
	}
	mode := fmt.Sprintf("mode=%04o", st.Mode&0o7777)
	if m.Data == "" {
		return mode
	}
	return mode + "," + m.Data
}

// filesystem mounts a new file system. The target is entered, so that no name is looked up again.
func (b *builder) filesystem(m *configs.Mount, data string, flags int) {
	what := "mount " + m.Device + " on " + m.Destination
	ordinary := m.Device == "proc" || m.Device == "sysfs"
	t := b.target(m.Destination, what, true, !ordinary)
	b.Call(what, unix.SYS_FCHDIR, t)
	b.Call(what, unix.SYS_MOUNT, m.Source, ".", m.Device, flags, data)
	b.Call("close", unix.SYS_CLOSE, t)
	if len(m.PropagationFlags) == 0 {
		return
	}
	t = b.target(m.Destination, what, true, !ordinary) // what is mounted there now
	b.Call(what, unix.SYS_FCHDIR, t)
	for _, p := range m.PropagationFlags {
		b.Call("change the propagation of "+m.Destination, unix.SYS_MOUNT, "", ".", 0, p, 0)
	}
	b.Call("close", unix.SYS_CLOSE, t)
}

// bind mounts source, with the flags and propagation of m.
func (b *builder) bind(source, destination string, m *configs.Mount) {
	what := "mount " + source + " on " + destination
	info, err := os.Stat(source)
	if err != nil {
		b.fail(fmt.Errorf("cannot %s: %w", what, err))
		return
	}
	b.bindTree(source, destination, info.IsDir(), m)
}

// bindTree is bind of what is a directory, or not, by the time that the child comes to it.
func (b *builder) bindTree(source, destination string, dir bool, m *configs.Mount) {
	what := "mount " + source + " on " + destination
	t := b.target(destination, what, dir, true)
	flags := unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	if m.Flags&unix.MS_REC != 0 {
		flags |= unix.AT_RECURSIVE
	}
	tree := b.Words(1)
	b.Call(what, unix.SYS_OPEN_TREE, unix.AT_FDCWD, source, flags).Into(tree)
	b.attach(what, tree, t)
	for _, p := range m.PropagationFlags {
		recursive := 0
		if p&unix.MS_REC != 0 {
			recursive = unix.AT_RECURSIVE
		}
		b.setattr("change the propagation of "+destination, tree, recursive, &unix.MountAttr{Propagation: uint64(p &^ unix.MS_REC)})
	}
	if m.Flags&^(unix.MS_BIND|unix.MS_REC) != 0 || m.ClearedFlags != 0 {
		b.setattr("set the options of "+destination, tree, 0, attributes(m.Flags))
	}
	if m.RecAttr != nil {
		b.setattr("set the options of all mounts of "+destination, tree, unix.AT_RECURSIVE, m.RecAttr)
	}
	b.Call("close", unix.SYS_CLOSE, tree)
	b.Call("close", unix.SYS_CLOSE, t)
}

func (b *builder) attach(what string, tree, target child.Word) {
	b.Call(what, unix.SYS_MOVE_MOUNT, tree, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

func (b *builder) setattr(what string, tree child.Word, flags int, attr *unix.MountAttr) {
	b.Call(what, unix.SYS_MOUNT_SETATTR, tree, "", unix.AT_EMPTY_PATH|flags, child.Data(b.Program, *attr), int(unsafe.Sizeof(*attr)))
}

// attributes are what mount(2) with MS_REMOUNT, MS_BIND and these flags makes of a mount: exactly these, but times as they
// were when none is named.
func attributes(flags int) *unix.MountAttr {
	a := &unix.MountAttr{}
	for _, f := range []struct {
		ms   int
		attr uint64
	}{
		{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY}, {unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID}, {unix.MS_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC}, {unix.MS_NOSYMFOLLOW, unix.MOUNT_ATTR_NOSYMFOLLOW},
	} {
		a.Attr_clr |= f.attr
		if flags&f.ms != 0 {
			a.Attr_set |= f.attr
		}
	}
	if flags&(unix.MS_NOATIME|unix.MS_NODIRATIME|unix.MS_RELATIME|unix.MS_STRICTATIME) == 0 {
		return a
	}
	a.Attr_clr |= unix.MOUNT_ATTR__ATIME | unix.MOUNT_ATTR_NODIRATIME
	switch {
	case flags&unix.MS_STRICTATIME != 0:
		a.Attr_set |= unix.MOUNT_ATTR_STRICTATIME
	case flags&unix.MS_NOATIME != 0:
		a.Attr_set |= unix.MOUNT_ATTR_NOATIME
	}
	if flags&unix.MS_NODIRATIME != 0 {
		a.Attr_set |= unix.MOUNT_ATTR_NODIRATIME
	}
	return a
}

// cgroupMounts are the v1 hierarchies of the host in the order of its mounts, which package cgroups reads once too.
var cgroupMounts = sync.OnceValues(func() ([]cgroups.Mount, error) { return cgroups.GetCgroupMounts(false) })

// mountCgroup shows the container its cgroups: the one hierarchy of v2, or a directory with one each of v1.
func (b *builder) mountCgroup(m *configs.Mount) {
	if cgroups.IsCgroup2UnifiedMode() {
		v2 := *m
		v2.Device = "cgroup2"
		b.filesystem(&v2, m.Data, m.Flags)
		return
	}
	hierarchies, err := cgroupMounts()
	if err != nil {
		b.fail(fmt.Errorf("cannot find the cgroup hierarchies: %w", err))
		return
	}
	const flags = unix.MS_NOEXEC | unix.MS_NOSUID | unix.MS_NODEV
	b.filesystem(&configs.Mount{Device: "tmpfs", Source: "tmpfs", Destination: m.Destination, PropagationFlags: m.PropagationFlags}, "mode=755", flags)
	private := b.Config.Namespaces.IsPrivate(configs.NEWCGROUP)
	var ours map[string]string
	if !private {
		if ours, err = cgroups.ParseCgroupFile("/proc/self/cgroup"); err != nil {
			b.fail(fmt.Errorf("cannot find our own cgroup: %w", err))
			return
		}
	}
	for _, h := range hierarchies {
		name := filepath.Base(h.Mountpoint)
		to := path.Join(m.Destination, name)
		switch {
		case private && name == "systemd":
			b.filesystem(&configs.Mount{Device: "cgroup", Source: "systemd", Destination: to}, "name=systemd", flags|m.Flags&unix.MS_RDONLY)
		case private:
			b.filesystem(&configs.Mount{Device: "cgroup", Source: "cgroup", Destination: to}, name, flags|m.Flags&unix.MS_RDONLY)
		default:
			own, err := b.cgroupIn(h, ours)
			if err != nil {
				b.fail(err)
				return
			}
			b.bindTree(own, to, true, &configs.Mount{Flags: unix.MS_BIND | unix.MS_REC | m.Flags, PropagationFlags: m.PropagationFlags})
		}
		for one := range strings.SplitSeq(name, ",") {
			if one != name {
				b.symlink(name, path.Join(m.Destination, one))
			}
		}
	}
}

// cgroupIn is where the container is in one v1 hierarchy: in a cgroup of its own, or else where this process is.
func (b *builder) cgroupIn(h cgroups.Mount, ours map[string]string) (string, error) {
	for _, s := range h.Subsystems {
		for _, name := range []string{s, cgroups.CgroupNamePrefix + s} {
			if own, ok := b.Cgroups[name]; ok {
				return own, nil
			}
		}
	}
	own, err := h.GetOwnCgroup(ours)
	if err != nil {
		return "", fmt.Errorf("cannot find our own cgroup below %s: %w", h.Mountpoint, err)
	}
	below, err := filepath.Rel(h.Root, own)
	if err != nil {
		return "", fmt.Errorf("cannot find our own cgroup below %s: %w", h.Mountpoint, err)
	}
	return filepath.Join(h.Mountpoint, below), nil
}

// symlink makes a link below the root where there is nothing.
func (b *builder) symlink(to, at string) {
	what := "link " + at
	dir := b.target(path.Dir(at), what, true, true)
	b.Call(what, unix.SYS_SYMLINKAT, to, dir, path.Base(at)).Ignore(unix.EEXIST)
	b.Call("close", unix.SYS_CLOSE, dir)
}

func (b *builder) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

func descriptor(n int) string { return "/proc/self/fd/" + strconv.Itoa(n) }
