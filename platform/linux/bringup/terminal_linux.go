package bringup

import (
	"math"

	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/platform/linux/child"
)

// terminal makes a terminal in the container's devpts, gives its master to the parent, and makes it the streams and the
// controlling terminal of the session that the child leads. For init it is /dev/console too.
//
// In a container that runs, /dev/pts may be whatever its programs have made of it, so what is opened there is looked at. Its
// other end is had from it alone, not by a name (ioctl_tty(2)).
func (b *builder) terminal(console bool) {
	const what = "make a terminal in /dev/pts"
	const gidAndMode, ino, rdev = 3, 4, 16 // words of struct statx (statx(2))
	master, tty, f := b.Words(1), b.Words(1), b.Words(1)
	how := b.how(&unix.OpenHow{Flags: unix.O_RDWR | unix.O_NOCTTY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS})
	b.Call(what, unix.SYS_OPENAT2, unix.AT_FDCWD, "/dev/pts/ptmx", how, unix.SizeofOpenHow).Into(master)
	b.Call(what, unix.SYS_FSTATFS, master, child.At(b.about))
	b.Check(what, b.about, math.MaxUint64, unix.DEVPTS_SUPER_MAGIC)
	b.Call(what, unix.SYS_STATX, master, "", unix.AT_EMPTY_PATH, unix.STATX_TYPE|unix.STATX_INO, child.At(b.about))
	b.Check(what, b.about+gidAndMode, unix.S_IFMT<<32, unix.S_IFCHR<<32)
	b.Check(what, b.about+ino, math.MaxUint64, 2)
	b.Check(what, b.about+rdev, math.MaxUint64, 5|2<<32) // major, minor
	b.Call(what, unix.SYS_IOCTL, master, unix.TIOCSPTLCK, child.At(b.Words(1)))
	b.Call(what, unix.SYS_IOCTL, master, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC).Into(tty)
	if p := b.Process; p.ConsoleWidth != 0 && p.ConsoleHeight != 0 {
		size := unix.Winsize{Row: p.ConsoleHeight, Col: p.ConsoleWidth}
		b.Call("set the size of the terminal", unix.SYS_IOCTL, master, unix.TIOCSWINSZ, child.Data(b.Program, size))
	}
	if console {
		const what = "mount the terminal on /dev/console"
		tree := b.Words(1)
		b.Call(what, unix.SYS_OPENAT, unix.AT_FDCWD, "/dev/console", unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NOCTTY|unix.O_CLOEXEC, 0o666).Into(f)
		b.Call(what, unix.SYS_OPEN_TREE, tty, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC).Into(tree)
		b.attach(what, tree, f)
		b.Call("close", unix.SYS_CLOSE, tree)
		b.Call("close", unix.SYS_CLOSE, f)
	}
	b.Give("give the terminal away", master)
	b.Call("close", unix.SYS_CLOSE, master)
	for i := range b.Stdio {
		b.Call("use the terminal", unix.SYS_DUP3, tty, i, 0)
	}
	b.Call("close", unix.SYS_CLOSE, tty)
	b.Call("make the terminal that of the session", unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
}
