package bringup

import (
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/platform/linux/child"
)

// Container is what the program of a container's init is made from. The caller keeps the files open until it is started.
type Container struct {
	ID      string
	Config  *configs.Config
	Process *libcontainer.Process
	Stdio   [3]*os.File
	Fifo    *os.File          // O_PATH: what init opens for writing before it execs
	Cgroups map[string]string // that exist by Wait, by cgroup v1 controller; or "" for v2, where the child is born
	// Terminal has the process begin with a new one in the place of Stdio, of the size that Process says. Its master is Process.Given.
	Terminal bool
}

// builder adds the steps of one container to a program.
type builder struct {
	*child.Program
	Container
	rootPath  string     // where the root file system is for this process
	root      child.Word // descriptor of the root file system
	fd        child.Word // of /proc/self/fd of the host
	null      child.Word // the container's /dev/null
	fifo      int        // descriptor of Fifo
	attr      child.Word // open to name an AppArmor profile
	about     child.Word // struct statx of what is looked at
	aboutRoot child.Word
	confirmed bool  // that the parent has made the cgroups
	err       error // the first
}

// Program is what a child runs to become a container's init, with how to start it. The child waits once for Process.Continue, which
// must come when its cgroups are there and its pid is on record. Close it, also after an error of Start.
type Program struct {
	*child.Program
	child.Options
	joined []*os.File
}

// Close frees descriptors.
func (p *Program) Close() {
	p.Program.Close()
	for _, f := range p.joined {
		f.Close()
	}
}

// Start runs the program.
func (p *Program) Start(s *child.Starter) (*child.Process, error) {
	return s.Start(p.Program, p.Options)
}

// Init answers the program. For a Container that is not Plain it answers nonsense.
func Init(c Container) (_ *Program, err error) {
	p, err := child.New()
	if err != nil {
		return nil, err
	}
	program := &Program{Program: p}
	defer func() {
		if err != nil {
			program.Close()
		}
	}()
	b := newBuilder(p, c, c.Config.Rootfs)
	b.begin()
	if err := b.join(program); err != nil {
		return nil, err
	}
	b.settings()
	b.Call("set the umask", unix.SYS_UMASK, 0) // modes of what is made are as they should be
	b.enterRoot()
	for _, m := range c.Config.Mounts {
		b.mount(m)
	}
	b.await()
	b.devices()
	b.pivot()
	b.finishRoot()
	b.finish()
	if b.err != nil {
		return nil, b.err
	}
	return program, nil
}

// statxWords is the size of struct statx (statx(2)) in words.
const statxWords = 32

func newBuilder(p *child.Program, c Container, rootPath string) *builder {
	return &builder{Program: p, Container: c, rootPath: rootPath, about: p.Words(statxWords), aboutRoot: p.Words(statxWords)}
}

// begin gives the child its streams.
func (b *builder) begin() {
	b.Call("begin a session", unix.SYS_SETSID)
	for i, f := range b.Stdio {
		b.Call("use a standard stream", unix.SYS_DUP3, b.Keep(f), i, 0)
	}
	if b.Fifo != nil {
		b.fifo = b.Keep(b.Fifo)
	}
	b.keyring()
}

// keyring joins the container's session keyring. New ones have these permissions and, which is all that is added, may be
// searched by their owner.
func (b *builder) keyring() {
	if b.Config.NoNewKeyring {
		return
	}
	const possessorAllOwnerViewReadLink, ownerSearch = 0x3f130000, 0x80000
	ring, without := b.Words(1), b.Label()
	b.Call("join a session keyring", unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, "_ses."+b.ID).Into(ring).On(unix.ENOSYS, without)
	if b.Fifo != nil {
		b.Call("set the permissions of the session keyring", unix.SYS_KEYCTL, unix.KEYCTL_SETPERM, ring, possessorAllOwnerViewReadLink|ownerSearch)
	}
	b.Place(without)
}

var cloneFlags = map[configs.NamespaceType]uintptr{
	configs.NEWNS: unix.CLONE_NEWNS, configs.NEWPID: unix.CLONE_NEWPID, configs.NEWNET: unix.CLONE_NEWNET,
	configs.NEWIPC: unix.CLONE_NEWIPC, configs.NEWUTS: unix.CLONE_NEWUTS, configs.NEWCGROUP: unix.CLONE_NEWCGROUP,
}

// join has the child born in new namespaces, or enter others. A cgroup namespace comes when the child is in its cgroup.
func (b *builder) join(p *Program) error {
	for _, ns := range b.Config.Namespaces {
		if ns.Path == "" {
			if ns.Type != configs.NEWCGROUP {
				p.Clone |= cloneFlags[ns.Type]
			}
			continue
		}
		f, err := os.Open(ns.Path)
		if err != nil {
			return fmt.Errorf("cannot open the namespace to join: %w", err)
		}
		p.joined = append(p.joined, f)
		if ns.Type == configs.NEWPID {
			p.PidNamespace = f
			continue
		}
		b.Call("join namespace "+ns.Path, unix.SYS_SETNS, b.Keep(f), cloneFlags[ns.Type])
	}
	return nil
}

// settings are what goes through the host's /proc, or needs nothing of the container.
func (b *builder) settings() {
	if b.Config.OomScoreAdj != nil {
		b.write("/proc/self/oom_score_adj", strconv.Itoa(*b.Config.OomScoreAdj))
	}
	if b.Config.Namespaces.IsPrivate(configs.NEWNET) && len(b.Config.Networks) > 0 {
		socket := b.Words(1)
		lo := child.Data(b.Program, struct { // struct ifreq of netdevice(7)
			name  [16]byte
			flags uint16
			_     [22]byte
		}{name: [16]byte{'l', 'o'}, flags: unix.IFF_UP})
		b.Call("make a socket", unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0).Into(socket)
		b.Call("bring up the loopback interface", unix.SYS_IOCTL, socket, unix.SIOCSIFFLAGS, lo)
		b.Call("close", unix.SYS_CLOSE, socket)
	}
	if len(b.Config.Sysctl) > 0 {
		sys, file := b.Words(2), b.Words(1)
		b.Call("open /proc/sys", unix.SYS_OPENAT, unix.AT_FDCWD, "/proc/sys", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0).Into(sys)
		how := b.how(&unix.OpenHow{Flags: unix.O_WRONLY | unix.O_TRUNC | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS})
		for _, key := range slices.Sorted(maps.Keys(b.Config.Sysctl)) {
			value := b.Config.Sysctl[key]
			b.Call("open sysctl "+key, unix.SYS_OPENAT2, sys, strings.ReplaceAll(key, ".", "/"), how, unix.SizeofOpenHow).Into(file)
			b.Call("write sysctl "+key+" = "+value, unix.SYS_WRITE, file, value, len(value))
			b.Call("close", unix.SYS_CLOSE, file)
		}
		b.Call("close", unix.SYS_CLOSE, sys)
	}
	b.openProfile()
	b.fd = b.Words(1)
	b.Call("open /proc/self/fd", unix.SYS_OPENAT, unix.AT_FDCWD, "/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0).Into(b.fd)
}

func (b *builder) write(file, text string) {
	f := b.Words(1)
	b.Call("open "+file, unix.SYS_OPENAT, unix.AT_FDCWD, file, unix.O_WRONLY|unix.O_CLOEXEC, 0).Into(f)
	b.Call("write "+file, unix.SYS_WRITE, f, text, len(text))
	b.Call("close", unix.SYS_CLOSE, f)
}

// await waits, once, until the parent has made the cgroups, enters them, and then takes them for the root of a new namespace.
func (b *builder) await() {
	if b.confirmed {
		return
	}
	b.confirmed = true
	b.Wait()
	b.enterCgroups()
	if b.Config.Namespaces.IsPrivate(configs.NEWCGROUP) {
		b.Call("make a cgroup namespace", unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP)
	}
	b.anyCPU()
}

// enterCgroups has the child move itself into the cgroups of version 1, by way of the host's mounts. Of itself a thread may say 0,
// and only then does the kernel not wait until all processors have come by, which takes milliseconds
// (cgroup_procs_write_start in its kernel/cgroup/cgroup.c).
func (b *builder) enterCgroups() {
	for _, controller := range slices.Sorted(maps.Keys(b.Cgroups)) {
		if controller != "" {
			b.write(b.Cgroups[controller]+"/tasks", "0")
		}
	}
}

// anyCPU takes back what binding to processors this process may have had; the cgroup's own limits stay.
func (b *builder) anyCPU() {
	all := allCPUs()
	b.Call("use all processors", unix.SYS_SCHED_SETAFFINITY, 0, len(all)*8, child.Data(b.Program, all...)).Ignore(child.AnyError)
}

// allCPUs is a set of processors as large as the kernel's are, which is what it answers here.
var allCPUs = sync.OnceValue(func() []uint64 {
	var set [1024]uint64
	n, _, errno := unix.RawSyscall(unix.SYS_SCHED_GETAFFINITY, 0, unsafe.Sizeof(set), uintptr(unsafe.Pointer(&set)))
	if errno != 0 {
		n = unsafe.Sizeof(set)
	}
	return slices.Repeat([]uint64{math.MaxUint64}, int(n)/8)
})

// how is the address of an argument of openat2(2).
func (b *builder) how(h *unix.OpenHow) uintptr { return child.Data(b.Program, *h) }
