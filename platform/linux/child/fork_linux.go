package child

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"syscall"
	"unsafe" // and linkname

	"golang.org/x/sys/unix"
)

// What package syscall does around a fork, and package gvisor too: block signals, forbid the stack to grow, and in the child
// put signals back to their defaults.
//
//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// Process is a child that runs a program.
type Process struct {
	Pid     int
	Given   []*os.File // what it gave (Program.Give), after Ready; whoever calls that closes them
	program *Program
}

// Options of a child.
type Options struct {
	Clone        uintptr  // CLONE_NEW flags of clone(2)
	PidNamespace *os.File // to be born in; nil for ours or that of Clone
	Cgroup       *os.File // of version 2, to be born in; nil for ours
}

// ready is what a child says at the end of its program; a failure is the number of the step and, in the upper half, the error.
const ready = math.MaxUint64

// Start runs the program in a new child. The caller waits for it by wait4(2). After an error it may be called again.
func (p *Program) Start(o Options) (*Process, error) {
	p.link()
	born := birth{clone: o.Clone | uintptr(unix.SIGCHLD), report: uintptr(p.Socket())}
	for i, fd := range p.fds {
		p.fds[i] = max(fd, 2)
	}
	from := 3
	for _, fd := range p.fds {
		if fd > from {
			born.close = append(born.close, [2]uintptr{uintptr(from), uintptr(fd - 1)})
		}
		from = max(from, fd+1)
	}
	born.close = append(born.close, [2]uintptr{uintptr(from), math.MaxUint32})
	if o.PidNamespace != nil {
		own, err := os.Open("/proc/thread-self/ns/pid")
		if err != nil {
			return nil, fmt.Errorf("cannot open our own pid namespace: %w", err)
		}
		defer own.Close()
		born.within, born.back = o.PidNamespace.Fd(), own.Fd()
		runtime.LockOSThread() // the namespace for children is a thread's own
	}
	if o.Cgroup != nil {
		born.args = &cloneArgs{flags: uint64(o.Clone | unix.CLONE_INTO_CGROUP), exitSignal: uint64(unix.SIGCHLD), cgroup: uint64(o.Cgroup.Fd())}
	}
	syscall.ForkLock.Lock()
	pid, errno := fork(&born, p.steps, p.memory)
	syscall.ForkLock.Unlock()
	if o.PidNamespace != nil && born.backErrno == 0 {
		runtime.UnlockOSThread()
	}
	runtime.KeepAlive(p)
	if errno != 0 {
		return nil, fmt.Errorf("cannot fork: %w", errno)
	}
	p.theirs.Close()
	return &Process{Pid: int(pid), program: p}, nil
}

// birth is what fork needs.
type birth struct {
	clone        uintptr
	args         *cloneArgs // in the place of clone, or nil
	within, back uintptr    // descriptors of pid namespaces, or 0
	backErrno    syscall.Errno
	report       uintptr
	close        [][2]uintptr // ranges of descriptors
}

// cloneArgs is struct clone_args (clone(2)).
type cloneArgs struct {
	flags, pidfd, childTid, parentTid, exitSignal, stack, stackSize, tls, setTid, setTidSize, cgroup uint64
}

//go:norace
//go:nocheckptr
//go:noinline
func fork(b *birth, steps []Step, memory []uint64) (pid uintptr, errno syscall.Errno) {
	beforeFork()
	if b.within != 0 {
		if _, _, errno = syscall.RawSyscall(unix.SYS_SETNS, b.within, unix.CLONE_NEWPID, 0); errno != 0 {
			afterFork()
			return 0, errno
		}
	}
	if b.args != nil {
		pid, _, errno = syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(b.args)), unsafe.Sizeof(*b.args), 0)
	} else {
		pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE, b.clone, 0, 0, 0, 0, 0)
	}
	if errno != 0 || pid != 0 {
		if b.within != 0 {
			_, _, b.backErrno = syscall.RawSyscall(unix.SYS_SETNS, b.back, unix.CLONE_NEWPID, 0)
		}
		afterFork()
		return pid, errno
	}
	afterForkInChild()
	interpret(b, steps, memory)
	return 0, 0 // never
}

// interpret runs in the child, and only this does.
//
//go:nosplit
//go:norace
//go:nocheckptr
func interpret(b *birth, steps []Step, memory []uint64) {
	for i := range b.close {
		syscall.RawSyscall(unix.SYS_CLOSE_RANGE, b.close[i][0], b.close[i][1], 0)
	}
	failure := uint64(0)
	for i := 0; i < len(steps); {
		s := &steps[i]
		result, errno := perform(s, memory)
		if errno == 0 {
			if s.into >= 0 {
				memory[s.into] = uint64(result)
			}
			i = int(s.next)
			continue
		}
		to := -1
		for j := 0; j < len(s.on) && to < 0; j++ {
			if s.on[j].errno == int32(errno) || s.on[j].errno == int32(AnyError) {
				to = int(s.on[j].to)
			}
		}
		if to < 0 {
			failure = uint64(errno)<<32 | uint64(i)
			break
		}
		i = to
	}
	memory[0] = failure
	syscall.RawSyscall6(unix.SYS_SENDTO, b.report, addressOf(memory), 8, unix.MSG_NOSIGNAL, 0, 0)
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 255, 0, 0)
	}
}

//go:nosplit
func addressOf(memory []uint64) uintptr { return uintptr(unsafe.Pointer(&memory[0])) }

//go:nosplit
//go:norace
//go:nocheckptr
func perform(s *Step, memory []uint64) (uintptr, syscall.Errno) {
	a := s.args
	for j := range a {
		if s.words>>j&1 != 0 {
			a[j] = uintptr(memory[a[j]])
		}
	}
	switch s.kind {
	case set:
		return a[0], 0
	case check:
		if a[0]&a[1] != a[2] {
			return 0, unix.EINVAL
		}
		return 0, 0
	case fail:
		return 0, failed
	}
	r, _, errno := syscall.RawSyscall6(s.number, a[0], a[1], a[2], a[3], a[4], a[5])
	return r, errno
}

// failed is no error of the kernel's.
const failed = syscall.Errno(math.MaxInt32)

// Continue lets the child go on from its next Wait. That it is dead already Ready will tell.
func (c *Process) Continue() error {
	if _, err := c.program.ours.Write(make([]byte, 8)); err != nil && !errors.Is(err, unix.EPIPE) {
		return err
	}
	return nil
}

// ErrDied is what became of a child that neither came to the end of its program nor told why not.
var ErrDied = errors.New("the process died while it was set up")

// Ready waits until the child is at Program.Ready, or tells what it could not do.
func (c *Process) Ready() (err error) {
	defer func() {
		if err != nil {
			for _, f := range c.Given {
				f.Close()
			}
			c.Given = nil
		}
	}()
	for {
		word, err := c.hear()
		switch {
		case errors.Is(err, unix.ECONNRESET):
			return ErrDied
		case err != nil:
			return err
		case word == ready:
			return nil
		case word == given:
			continue
		}
		what, errno := c.program.steps[uint32(word)].what, syscall.Errno(word>>32)
		if errno == failed {
			return errors.New(what)
		}
		return fmt.Errorf("cannot %s: %w", what, errno)
	}
}

// hear takes one message of the child's, and the descriptor that comes with it.
func (c *Process) hear() (uint64, error) {
	conn, err := c.program.ours.SyscallConn()
	if err != nil {
		return 0, err
	}
	said, rights := make([]byte, 8), make([]byte, unix.CmsgSpace(4))
	var n, control int
	waitErr := conn.Read(func(fd uintptr) bool {
		n, control, _, _, err = unix.Recvmsg(int(fd), said, rights, unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	if err = errors.Join(waitErr, err); err != nil {
		return 0, err
	}
	if n != len(said) { // it writes whole words
		return 0, ErrDied
	}
	messages, err := unix.ParseSocketControlMessage(rights[:control])
	if err != nil {
		return 0, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return 0, err
		}
		for _, fd := range fds {
			c.Given = append(c.Given, os.NewFile(uintptr(fd), "given"))
		}
	}
	return binary.NativeEndian.Uint64(said), nil
}
