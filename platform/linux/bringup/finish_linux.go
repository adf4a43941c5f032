package bringup

import (
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/sys/capability"
	"github.com/moby/sys/user"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/platform/linux/child"
)

// finish gives up all that the container's program shall not have, and executes it. Loading a filter takes CAP_SYS_ADMIN or
// no_new_privs; either way next to nothing happens under it.
func (b *builder) finish() {
	p := b.Process
	env, err := b.environment()
	if err != nil {
		b.fail(err)
		return
	}
	b.confine()
	limits := p.Rlimits
	if len(limits) == 0 {
		limits = b.Config.Rlimits
	}
	for _, l := range limits {
		b.Call(fmt.Sprintf("set resource limit %d", l.Type), unix.SYS_PRLIMIT64, 0, l.Type, child.Data(b.Program, unix.Rlimit{Cur: l.Soft, Max: l.Hard}), 0)
	}
	nnp := b.Config.NoNewPrivileges
	if p.NoNewPrivileges != nil {
		nnp = *p.NoNewPrivileges
	}
	if nnp {
		b.Call("set no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	given := p.Capabilities
	if given == nil {
		given = b.Config.Capabilities
	}
	caps := capabilitySets(given)
	b.becomeUser(caps)
	filter, err := seccompFilter(b.Config.Seccomp)
	if err != nil {
		b.fail(err)
		return
	}
	extra := uint64(0)
	if filter != nil && !nnp {
		extra = 1 << unix.CAP_SYS_ADMIN
	}
	b.capset(caps.effective, caps.permitted|extra, caps.inheritable)
	b.Call("clear the ambient capabilities", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	for c := range lastCap() + 1 {
		if caps.ambient>>c&1 != 0 {
			b.Call("raise an ambient capability", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c, 0, 0).Ignore(child.AnyError)
		}
	}
	exe := b.lookPath(p.Args[0], env)
	if filter != nil {
		if extra != 0 {
			b.capset(caps.effective|extra, caps.permitted|extra, caps.inheritable)
		}
		b.load(filter)
		if extra != 0 {
			b.capset(caps.effective, caps.permitted, caps.inheritable)
		}
	}
	b.Ready()
	if b.Fifo != nil {
		b.awaitStart()
	}
	b.Call("close the host's files", unix.SYS_CLOSE_RANGE, 3, math.MaxUint32, 0).Ignore(child.AnyError) // which exec does too
	b.execute(exe, env)
}

// becomeUser changes to the process's user and into its directory, which either root or the user may have to be able to enter.
func (b *builder) becomeUser(caps capabilities) {
	p := b.Process
	entered, dir := b.Words(1), b.Words(1)
	if p.Cwd != "" {
		denied := b.Label()
		b.openCwd(dir).On(unix.EACCES, denied).On(unix.EPERM, denied)
		b.Call("enter the working directory "+p.Cwd, unix.SYS_FCHDIR, dir).On(unix.EACCES, denied).On(unix.EPERM, denied)
		b.Set(entered, 1)
		b.Place(denied)
	}
	for c := range lastCap() + 1 {
		if caps.bounding>>c&1 == 0 {
			b.Call("drop a capability from the bounding set", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		}
	}
	b.Call("keep capabilities", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0, 0, 0)
	for i, f := range b.Stdio {
		if b.Terminal || !isNull(f) && owner(f) != p.UID {
			b.Call("give a standard stream to the user", unix.SYS_FCHOWN, i, p.UID, -1).Ignore(unix.EPERM, unix.EROFS)
		}
	}
	groups := make([]uint32, len(p.AdditionalGroups))
	for i, g := range p.AdditionalGroups {
		groups[i] = uint32(g)
	}
	b.Call("set the groups", unix.SYS_SETGROUPS, len(groups), child.Data(b.Program, groups...))
	b.Call("set the group", unix.SYS_SETGID, p.GID)
	b.Call("set the user", unix.SYS_SETUID, p.UID)
	b.Call("become undumpable", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // another user is what the fs.suid_dumpable says
	if p.Cwd != "" {
		done, again := b.Label(), b.Label()
		b.Check("enter", entered, math.MaxUint64, 1).Then(done).On(child.AnyError, again)
		b.Place(again)
		b.openCwd(dir)
		b.Call("enter the working directory "+p.Cwd, unix.SYS_FCHDIR, dir)
		b.Place(done)
	}
	// The kernel marks a directory outside of the root, so that its name does not begin with a slash.
	name := b.Words(unix.PathMax / 8)
	b.Call("find the working directory", unix.SYS_GETCWD, child.At(name), unix.PathMax)
	b.Check("use a working directory outside of the container", name, 0xff, '/')
	b.Call("no longer keep capabilities", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 0, 0, 0, 0)
}

func owner(f *os.File) int {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return -1
	}
	return int(st.Uid)
}

type capabilities struct{ bounding, effective, permitted, inheritable, ambient uint64 }

// capabilityNumbers knows those of this kernel; others are ignored, as libcontainer does.
var capabilityNumbers = sync.OnceValue(func() map[string]int {
	numbers := map[string]int{}
	known, _ := capability.ListSupported()
	for _, c := range known {
		numbers["CAP_"+strings.ToUpper(c.String())] = int(c)
	}
	return numbers
})

var lastCap = sync.OnceValue(func() int {
	last, err := capability.LastCap()
	if err != nil {
		return 63
	}
	return int(last)
})

func capabilitySets(c *configs.Capabilities) capabilities {
	set := func(names []string) (bits uint64) {
		for _, name := range names {
			if n, ok := capabilityNumbers()[name]; ok {
				bits |= 1 << n
			}
		}
		return bits
	}
	return capabilities{set(c.Bounding), set(c.Effective), set(c.Permitted), set(c.Inheritable), set(c.Ambient)}
}

func (b *builder) capset(effective, permitted, inheritable uint64) {
	data := child.Data(b.Program,
		unix.CapUserData{Effective: uint32(effective), Permitted: uint32(permitted), Inheritable: uint32(inheritable)},
		unix.CapUserData{Effective: uint32(effective >> 32), Permitted: uint32(permitted >> 32), Inheritable: uint32(inheritable >> 32)})
	header := child.Data(b.Program, unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3})
	b.Call("set the capabilities", unix.SYS_CAPSET, header, data)
}

// environment is that of the process with each variable once, the last, and with HOME.
func (b *builder) environment() ([]string, error) {
	home := false
	seen := map[string]bool{}
	var env []string
	for _, e := range slices.Backward(b.Process.Env) {
		name, value, ok := strings.Cut(e, "=")
		switch {
		case !ok || name == "":
			return nil, fmt.Errorf("invalid argument: environment variable %q is not NAME=VALUE", e)
		case strings.ContainsRune(e, 0):
			return nil, fmt.Errorf("invalid argument: environment variable %q contains a zero byte", name)
		case seen[name]:
			continue
		}
		seen[name] = true
		if name == "HOME" {
			if value == "" {
				continue
			}
			home = true
		}
		env = append(env, e)
	}
	slices.Reverse(env)
	if !home {
		env = append(env, "HOME="+b.home())
	}
	return env, nil
}

// maxPasswd bounds what is read of an image's list of users.
const maxPasswd = 1 << 20

// home looks for the user in the image's /etc/passwd.
func (b *builder) home() string {
	root, err := os.OpenFile(b.rootPath, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "/"
	}
	defer root.Close()
	fd, err := unix.Openat2(int(root.Fd()), "etc/passwd", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: inRoot})
	if err != nil {
		return "/"
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "/" // and nothing of the image's is opened that does something when it is
	}
	f, err := os.Open(descriptor(fd))
	if err != nil {
		return "/"
	}
	defer f.Close()
	users, err := user.ParsePasswdFilter(io.LimitReader(f, maxPasswd), func(u user.User) bool { return u.Uid == b.Process.UID })
	if err != nil || len(users) == 0 {
		return "/"
	}
	return users[0].Home
}

// lookPath finds the program as exec.LookPath does, and fails if there is none. What it answers holds its name's address.
func (b *builder) lookPath(name string, env []string) child.Word {
	exe, found := b.Words(1), b.Label()
	if strings.Contains(name, "/") {
		b.try(exe, name, found, nil)
	} else {
		search, _ := variable(env, "PATH")
		for dir := range strings.SplitSeq(search, ":") {
			if dir != "" {
				next := b.Label()
				b.try(exe, strings.TrimSuffix(dir, "/")+"/"+name, found, &next)
				b.Place(next)
			}
		}
		b.Fail(fmt.Sprintf("exec: %q: executable file not found in $PATH", name))
	}
	b.Place(found)
	return exe
}

// try jumps to found when file can be executed; to next, or else it fails, when not.
func (b *builder) try(exe child.Word, file string, found child.Label, next *child.Label) {
	const gidAndMode = 3
	what := fmt.Sprintf("exec %q", file)
	f, about, directory, other := b.Words(1), b.about, b.Label(), b.Label()
	or := func(s *child.Step) *child.Step {
		if next != nil {
			s.On(child.AnyError, *next)
		}
		return s
	}
	or(b.Call(what, unix.SYS_OPENAT2, unix.AT_FDCWD, file, b.how(openAnywhere), unix.SizeofOpenHow).Into(f))
	or(b.Call(what, unix.SYS_STATX, f, "", unix.AT_EMPTY_PATH, unix.STATX_TYPE, child.At(about)))
	b.Check(what, about+gidAndMode, unix.S_IFMT<<32, unix.S_IFDIR<<32).Then(directory).On(child.AnyError, other)
	b.Place(directory)
	if next != nil {
		b.Jump(*next)
	} else {
		b.Fail(fmt.Sprintf("cannot exec %q: is a directory: permission denied", file))
	}
	b.Place(other)
	or(b.Call(what, unix.SYS_FACCESSAT2, f, "", unix.X_OK, unix.AT_EACCESS|unix.AT_EMPTY_PATH))
	b.Call("close", unix.SYS_CLOSE, f)
	b.Set(exe, file).Then(found)
}

// awaitStart blocks in opening the fifo until somebody opens its other end, and says that the program begins.
func (b *builder) awaitStart() {
	const what = "wait for the start"
	fifo := b.Words(1)
	b.Call(what, unix.SYS_OPENAT, b.fd, strconv.Itoa(b.fifo), unix.O_WRONLY|unix.O_CLOEXEC, 0).Into(fifo)
	b.Call(what, unix.SYS_WRITE, fifo, "0", 1)
	// None of these may be open at the exec, whose name could lead through /proc/self/fd (CVE-2024-21626, CVE-2016-9962).
	b.Call("close", unix.SYS_CLOSE, fifo)
	b.Call("close", unix.SYS_CLOSE, b.fifo)
	b.Call("close", unix.SYS_CLOSE, b.fd)
}

// execute is the end. When it fails nobody listens any more but the container's standard error.
func (b *builder) execute(exe child.Word, env []string) {
	format, denied, other := b.Label(), b.Label(), b.Label()
	b.Call("execute", unix.SYS_EXECVE, exe, b.Strings(b.Process.Args), b.Strings(env)).
		On(unix.ENOEXEC, format).On(unix.EACCES, denied).On(child.AnyError, other)
	for _, end := range []struct {
		label child.Label
		text  string
	}{{format, "exec format error"}, {denied, "permission denied"}, {other, "it cannot be executed"}} {
		b.Place(end.label)
		text := "exec " + b.Process.Args[0] + ": " + end.text + "\n"
		b.Call("tell", unix.SYS_WRITE, 2, text, len(text)).Ignore(child.AnyError)
		b.Call("exit", unix.SYS_EXIT_GROUP, 255)
	}
}
