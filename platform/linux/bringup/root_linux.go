package bringup

import (
	"fmt"
	"math"
	"os"
	"path"

	devices "github.com/opencontainers/cgroups/devices/config"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/platform/linux/child"
)

// devices makes the nodes and links that belong into /dev, which is a tmpfs of the container's.
func (b *builder) devices() {
	for _, d := range b.Config.Devices {
		if p := clean(d.Path); d.Path != "" && p != "/dev/ptmx" {
			b.device(p, d)
		}
	}
	dev := b.target("/dev", "open /dev", true, true)
	b.Call("remove /dev/ptmx", unix.SYS_UNLINKAT, dev, "ptmx", 0).Ignore(unix.ENOENT)
	b.Call("link /dev/ptmx", unix.SYS_SYMLINKAT, "pts/ptmx", dev, "ptmx")
	links := [][2]string{{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"}}
	if hasKcore() {
		links = append(links, [2]string{"/proc/kcore", "core"})
	}
	for _, l := range links {
		b.Call("link /dev/"+l[1], unix.SYS_SYMLINKAT, l[0], dev, l[1]).Ignore(unix.EEXIST)
	}
	b.Call("close", unix.SYS_CLOSE, dev)
}

func hasKcore() bool {
	_, err := os.Stat("/proc/kcore")
	return err == nil
}

var nodeTypes = map[devices.Type]int{devices.BlockDevice: unix.S_IFBLK, devices.CharDevice: unix.S_IFCHR, devices.FifoDevice: unix.S_IFIFO}

// device makes one node, or, where this process may not, shows the host's.
func (b *builder) device(p string, d *devices.Device) {
	what := "make device " + p
	kind, ok := nodeTypes[d.Type]
	number, err := d.Mkdev()
	if !ok || err != nil {
		b.fail(fmt.Errorf("cannot %s: its type or number is not valid: %w", what, err))
		return
	}
	dir, name := b.target(path.Dir(p), what, true, true), path.Base(p)
	done, denied := b.Label(), b.Label()
	s := b.Call(what, unix.SYS_MKNODAT, dir, name, int(d.FileMode)|kind, int(number)).On(unix.EEXIST, done).On(unix.EPERM, denied)
	if d.Uid == 0 && d.Gid == 0 {
		s.Then(done)
	} else {
		b.Call(what, unix.SYS_FCHOWNAT, dir, name, int(d.Uid), int(d.Gid), unix.AT_SYMLINK_NOFOLLOW).Then(done)
	}
	b.Place(denied)
	node, tree := b.Words(1), b.Words(1)
	b.Call(what, unix.SYS_OPENAT, dir, name, unix.O_RDONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0).Into(node)
	b.Call(what, unix.SYS_OPEN_TREE, unix.AT_FDCWD, d.Path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC).Into(tree)
	b.attach(what, tree, node)
	b.Call("close", unix.SYS_CLOSE, tree)
	b.Call("close", unix.SYS_CLOSE, node)
	b.Place(done)
	b.Call("close", unix.SYS_CLOSE, dir)
}

// pivot makes the container's root the root, and leaves the host's behind. pivot_root(2) explains the dots.
func (b *builder) pivot() {
	const what = "change the root"
	old := b.Words(1)
	b.Call(what, unix.SYS_OPENAT, unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0).Into(old)
	b.Call(what, unix.SYS_FCHDIR, b.root)
	b.Call(what, unix.SYS_PIVOT_ROOT, ".", ".")
	b.Call(what, unix.SYS_FCHDIR, old)
	b.Call(what, unix.SYS_MOUNT, "", ".", 0, unix.MS_SLAVE|unix.MS_REC, 0) // so that the host's own mounts stay
	b.Call(what, unix.SYS_UMOUNT2, ".", unix.MNT_DETACH)
	b.Call(what, unix.SYS_CHDIR, "/")
	b.Call("close", unix.SYS_CLOSE, old)
	b.Call("close", unix.SYS_CLOSE, b.root)
	if p := b.Config.RootPropagation; p != 0 && p&(unix.MS_PRIVATE|unix.MS_SLAVE) == 0 {
		b.Call("change the propagation of the root", unix.SYS_MOUNT, "", "/", 0, p, 0)
	}
}

// finishRoot is what comes after all is mounted: what of it is read-only, or hidden.
func (b *builder) finishRoot() {
	c := b.Config
	b.ownNull()
	if b.Terminal {
		b.terminal(true)
	}
	b.makeCwd()
	for _, m := range c.Mounts {
		if m.Flags&unix.MS_RDONLY != 0 && (m.Device == "tmpfs" || clean(m.Destination) == "/dev") {
			b.Call("make "+m.Destination+" read-only", unix.SYS_MOUNT, "", m.Destination, 0, m.Flags|unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, 0)
		}
	}
	if c.Readonlyfs {
		b.Call("make the root read-only", unix.SYS_MOUNT, "", "/", 0, unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, 0)
	}
	umask := 0o022
	if c.Umask != nil {
		umask = int(*c.Umask)
	}
	b.Call("set the umask", unix.SYS_UMASK, umask)
	if c.Hostname != "" {
		b.Call("set the host name", unix.SYS_SETHOSTNAME, c.Hostname, len(c.Hostname))
	}
	if c.Domainname != "" {
		b.Call("set the domain name", unix.SYS_SETDOMAINNAME, c.Domainname, len(c.Domainname))
	}
	for _, p := range c.ReadonlyPaths {
		b.readonly(p)
	}
	b.mask(c.MaskPaths)
	b.Call("close", unix.SYS_CLOSE, b.null)
}

// ownNull opens the container's /dev/null, makes sure that it is that, and uses it in the place of the host's.
func (b *builder) ownNull() {
	const what = "use the container's /dev/null"
	b.null = b.Words(1)
	b.Call(what, unix.SYS_OPENAT, unix.AT_FDCWD, "/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0).Into(b.null)
	const gidAndMode, rdev = 3, 16 // words of struct statx (statx(2)): 16 bits of mode in the upper half; major, minor
	about := b.about
	b.Call(what, unix.SYS_STATX, b.null, "", unix.AT_EMPTY_PATH, unix.STATX_TYPE, child.At(about))
	b.Check(what, about+gidAndMode, unix.S_IFMT<<32, unix.S_IFCHR<<32)
	b.Check(what, about+rdev, math.MaxUint64, 1|3<<32)
	for i, f := range b.Stdio {
		if isNull(f) && !b.Terminal {
			b.Call(what, unix.SYS_DUP3, b.null, i, 0)
		}
	}
}

func isNull(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
}

func (b *builder) makeCwd() {
	cwd := clean(b.Process.Cwd)
	if cwd == "/" {
		return
	}
	there, missing, dir := b.Label(), b.Label(), b.Words(1)
	b.openCwd(dir).Then(there).On(unix.ENOENT, missing).On(child.AnyError, there)
	b.Place(missing)
	for i := 1; i <= len(cwd); i++ {
		if i == len(cwd) || cwd[i] == '/' {
			b.Call("make the working directory "+cwd, unix.SYS_MKDIRAT, unix.AT_FDCWD, cwd[:i], 0o755).Ignore(unix.EEXIST)
		}
	}
	b.Place(there)
}

// openAnywhere is for names in the container when that has become the root.
var openAnywhere = &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS}

func (b *builder) openCwd(dir child.Word) *child.Step {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS}
	return b.Call("enter the working directory "+b.Process.Cwd, unix.SYS_OPENAT2, unix.AT_FDCWD, b.Process.Cwd, b.how(how), unix.SizeofOpenHow).Into(dir)
}

func (b *builder) readonly(p string) {
	what := "make " + p + " read-only"
	t, tree, none := b.Words(1), b.Words(1), b.Label()
	b.Call(what, unix.SYS_OPENAT2, unix.AT_FDCWD, p, b.how(openAnywhere), unix.SizeofOpenHow).Into(t).On(unix.ENOENT, none)
	b.Call(what, unix.SYS_OPEN_TREE, t, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE).Into(tree)
	b.setattr(what, tree, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Attr_clr: unix.MOUNT_ATTR_NOSYMFOLLOW})
	b.attach(what, tree, t)
	b.Call("close", unix.SYS_CLOSE, tree)
	b.Call("close", unix.SYS_CLOSE, t)
	b.Place(none)
}

// mask covers files with /dev/null, and directories with one empty, read-only tmpfs.
func (b *builder) mask(paths []string) {
	empty, tree, seen := b.Words(1), b.Words(1), map[string]bool{}
	b.Set(empty, 0) // no descriptor is 0 here
	for _, p := range paths {
		if seen[clean(p)] {
			continue
		}
		seen[clean(p)] = true
		what := "mask " + p
		t, none, file, first, next := b.Words(1), b.Label(), b.Label(), b.Label(), b.Label()
		how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_DIRECTORY, Resolve: unix.RESOLVE_NO_MAGICLINKS}
		b.Call(what, unix.SYS_OPENAT2, unix.AT_FDCWD, p, b.how(how), unix.SizeofOpenHow).Into(t).On(unix.ENOENT, none).On(unix.ENOTDIR, file)
		b.Check(what, empty, math.MaxUint64, 0).Then(first).On(child.AnyError, next)
		b.Place(next)
		b.Call(what, unix.SYS_OPEN_TREE, empty, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC).Into(tree)
		b.attach(what, tree, t)
		b.Call("close", unix.SYS_CLOSE, tree)
		b.Call("close", unix.SYS_CLOSE, t).Then(none)
		b.Place(first)
		b.Call(what, unix.SYS_FCHDIR, t)
		b.Call(what, unix.SYS_MOUNT, "tmpfs", ".", "tmpfs", unix.MS_RDONLY, "nr_blocks=1,nr_inodes=1")
		b.Call("close", unix.SYS_CLOSE, t)
		b.Call(what, unix.SYS_OPENAT2, unix.AT_FDCWD, p, b.how(how), unix.SizeofOpenHow).Into(empty)
		b.Call("enter the root", unix.SYS_CHDIR, "/").Then(none)
		b.Place(file)
		b.Call(what, unix.SYS_OPENAT2, unix.AT_FDCWD, p, b.how(openAnywhere), unix.SizeofOpenHow).Into(t).On(unix.ENOENT, none)
		b.Call(what, unix.SYS_OPEN_TREE, b.null, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC).Into(tree)
		b.attach(what, tree, t)
		b.Call("close", unix.SYS_CLOSE, tree)
		b.Call("close", unix.SYS_CLOSE, t)
		b.Place(none)
	}
	closed := b.Label()
	b.Check("close", empty, math.MaxUint64, 0).Then(closed).Ignore(child.AnyError)
	b.Call("close", unix.SYS_CLOSE, empty)
	b.Place(closed)
}
