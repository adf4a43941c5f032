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
	Stdio   [3]*os.File       // above descriptor 2
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
func (p *Program) Start() (*child.Process, error) { return p.Program.Start(p.Options) }

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

// begin makes the child nobody's to look into, and gives it its streams.
func (b *builder) begin() {
	b.Call("become undumpable", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	b.Call("begin a session", unix.SYS_SETSID)
	// Signals that this process ignores would be ignored by the container too.
	defaults := &[4]uint64{}
	for s := 1; s < 32; s++ {
		if s != int(unix.SIGKILL) && s != int(unix.SIGSTOP) {
			b.Call("reset a signal", unix.SYS_RT_SIGACTION, s, unsafe.Pointer(defaults), 0, 8)
		}
	}
	limits, err := child.Limits()
	if err != nil {
		b.fail(err)
	}
	for i := range limits {
		b.Call("set a resource limit", unix.SYS_PRLIMIT64, 0, limits[i].Kind, unsafe.Pointer(&limits[i].Limit), 0)
	}
	for i, f := range b.Stdio {
		from := int(f.Fd())
		b.Keep(from)
		b.Call("use a standard stream", unix.SYS_DUP3, from, i, 0)
	}
	if b.Fifo != nil {
		b.Keep(int(b.Fifo.Fd()))
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
		b.Keep(int(f.Fd()))
		b.Call("join namespace "+ns.Path, unix.SYS_SETNS, int(f.Fd()), cloneFlags[ns.Type])
	}
	return nil
}

// settings are what goes through the host's /proc, or needs nothing of the container.
func (b *builder) settings() {
	if b.Config.OomScoreAdj != nil {
		b.write("/proc/self/oom_score_adj", strconv.Itoa(*b.Config.OomScoreAdj))
	}
	if b.Config.Namespaces.IsPrivate(configs.NEWNET) && len(b.Config.Networks) > 0 {
		socket, lo := b.Words(1), &[5]uint64{}
		copy((*[16]byte)(unsafe.Pointer(lo))[:], "lo")
		(*[40]byte)(unsafe.Pointer(lo))[16] = unix.IFF_UP // struct ifreq of netdevice(7)
		b.Call("make a socket", unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0).Into(socket)
		b.Call("bring up the loopback interface", unix.SYS_IOCTL, socket, unix.SIOCSIFFLAGS, unsafe.Pointer(lo))
		b.Call("close", unix.SYS_CLOSE, socket)
	}
	if len(b.Config.Sysctl) > 0 {
		sys, file := b.Words(2), b.Words(1)
		b.Call("open /proc/sys", unix.SYS_OPENAT, unix.AT_FDCWD, "/proc/sys", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0).Into(sys)
		how := how(unix.O_WRONLY|unix.O_TRUNC|unix.O_CLOEXEC, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_MAGICLINKS)
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
	b.Call("use all processors", unix.SYS_SCHED_SETAFFINITY, 0, len(all)*8, unsafe.Pointer(&all[0])).Ignore(child.AnyError)
}

var allCPUs = sync.OnceValue(func() []uint64 { return slices.Repeat([]uint64{math.MaxUint64}, 1024) })

func how(flags, resolve uint64) unsafe.Pointer {
	return unsafe.Pointer(&unix.OpenHow{Flags: flags, Resolve: resolve})
}
