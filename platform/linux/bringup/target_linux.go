package bringup

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/platform/linux/child"
)

// inRoot takes the root file system for the root of all links, and follows none of the kernel's (openat2(2)).
const inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

var (
	openPlainly   = &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: inRoot | unix.RESOLVE_NO_SYMLINKS}
	openInRoot    = &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: inRoot}
	openDirInRoot = &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_DIRECTORY, Resolve: inRoot}
	openChild     = &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
)

// openat2 opens name below dir. The kernel gives up with EAGAIN when something is renamed meanwhile.
func (b *builder) openat2(what string, dir child.Word, name string, how *unix.OpenHow, into child.Word) *child.Step {
	again := b.Label()
	b.Place(again)
	return b.Call(what, unix.SYS_OPENAT2, dir, name, b.how(how), unix.SizeofOpenHow).Into(into).On(unix.EAGAIN, again)
}

// target opens what a mount goes onto, as the container would find it, and makes it when it is not there: a directory, or an
// empty file. A name that leads through links of the image may not lead to the root itself, nor into /proc.
func (b *builder) target(destination, what string, dir, links bool) child.Word {
	name := clean(destination)[1:]
	if name == "" {
		return b.root
	}
	t := b.Words(1)
	found, linked, missing := b.Label(), b.Label(), b.Label()
	s := b.openat2(what, b.root, name, openPlainly, t).Then(found).On(unix.ENOENT, missing)
	if links {
		s.On(unix.ELOOP, linked)
		b.Place(linked)
		b.openat2(what, b.root, name, openInRoot, t).On(unix.ENOENT, missing)
		b.refuse(what, t)
		b.Jump(found)
	}
	b.Place(missing)
	b.make(what, name, dir, t)
	b.Place(found)
	return t
}

// refuse fails when t is the root, or in a proc file system.
func (b *builder) refuse(what string, t child.Word) {
	const ino, mountID = 4, 18 // words of struct statx (statx(2))
	about, root := b.about, b.aboutRoot
	bad, good, next := b.Label(), b.Label(), b.Label()
	b.Call(what, unix.SYS_FSTATFS, t, child.At(about))
	b.Check(what, about, 1<<64-1, unix.PROC_SUPER_MAGIC).Then(bad).On(child.AnyError, next)
	b.Place(next)
	b.Call(what, unix.SYS_STATX, t, "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_MNT_ID, child.At(about))
	b.Call(what, unix.SYS_STATX, b.root, "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_MNT_ID, child.At(root))
	b.Equal(what, about+ino, root+ino).On(child.AnyError, good)
	b.Equal(what, about+mountID, root+mountID).On(child.AnyError, good)
	b.Place(bad)
	b.Fail("cannot " + what + ": links of the image lead there to the root or into /proc: permission denied")
	b.Place(good)
}

// make makes name and the directories above it.
func (b *builder) make(what, name string, dir bool, t child.Word) {
	above := b.root
	parts := strings.Split(name, "/")
	for i, part := range parts[:len(parts)-1] {
		d, there, missing := b.Words(1), b.Label(), b.Label()
		b.openat2(what, b.root, strings.Join(parts[:i+1], "/"), openDirInRoot, d).Then(there).On(unix.ENOENT, missing)
		b.Place(missing)
		b.Call(what, unix.SYS_MKDIRAT, above, part, 0o755).Ignore(unix.EEXIST)
		b.openat2(what, above, part, openChild, d)
		b.Place(there)
		above = d
	}
	last := parts[len(parts)-1]
	if dir {
		b.Call(what, unix.SYS_MKDIRAT, above, last, 0o755).Ignore(unix.EEXIST)
	} else {
		file := b.Words(1)
		b.Call(what, unix.SYS_OPENAT, above, last, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644).Into(file)
		b.Call("close", unix.SYS_CLOSE, file)
	}
	b.openat2(what, above, last, openChild, t)
}
