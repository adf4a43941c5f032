package child

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Starter is a process that children are born of, though they are ours. A fork copies the page tables of who forks, and has
// it copy each page that it then writes to: for this process that is most of what a container's start costs. The starter is this
// program too, but does not come to Go (starter.c), so it has a few pages, and knows nothing of other children.
//
// It ends when this process does. One that was killed is replaced at the next Start.
type Starter struct {
	mark    string
	mu      sync.Mutex // one request at a time
	process *os.Process
	control *os.File // nil while there is no process
	closed  bool
}

// request has one child made (starter.h). Descriptors are named by where they are among those sent along.
type request struct{ flags, kept, cgroup, within, back uint64 }

// maxDescriptors bounds those of a request.
const maxDescriptors = 64

// NewStarter starts one. The mark is to be seen in its command line. Close it.
func NewStarter(mark string) (*Starter, error) {
	if !linked {
		return nil, fmt.Errorf("this program was built without cgo: %w", errdefs.ErrNotImplemented)
	}
	s := &Starter{mark: mark}
	if err := s.begin(); err != nil {
		return nil, err
	}
	return s, nil
}

// begin starts the process. Go gives back to what it executes the limit of open files that it raised for itself.
func (s *Starter) begin() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot make a socket: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "starter")
	defer theirs.Close()
	if err := unix.SetNonblock(pair[0], true); err != nil {
		unix.Close(pair[0])
		return err
	}
	control := os.NewFile(uintptr(pair[0]), "starter")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err == nil {
		defer null.Close()
		s.process, err = os.StartProcess("/proc/self/exe", []string{"slipway-starter", s.mark}, &os.ProcAttr{
			Files: []*os.File{null, null, null, theirs}, Env: []string{"_SLIPWAY_STARTER=1"},
		})
	}
	if err != nil {
		control.Close()
		return fmt.Errorf("cannot start what starts containers: %w", err)
	}
	s.control = control
	return nil
}

// end has the process end and waits for that.
func (s *Starter) end() error {
	if s.control == nil {
		return nil
	}
	err := s.control.Close()
	_, _ = s.process.Wait() // or somebody else waited for all that had ended
	s.control = nil
	return err
}

// Close ends the process. What it started goes on.
func (s *Starter) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return s.end()
}

// Options of a child.
type Options struct {
	Clone        uintptr  // CLONE_NEW flags of clone(2)
	PidNamespace *os.File // to be born in; nil for ours or that of Clone
	Cgroup       *os.File // of version 2, to be born in; nil for ours
}

// Start runs the program in a new child. The caller waits for it by wait4(2). After an error it may be called again.
func (s *Starter) Start(p *Program, o Options) (*Process, error) {
	code, err := p.encode()
	if err != nil {
		return nil, fmt.Errorf("cannot start a process: %w", err)
	}
	r := request{flags: uint64(o.Clone), kept: uint64(len(p.files))}
	files := p.files[:len(p.files):len(p.files)]
	if o.PidNamespace != nil {
		own, err := os.Open("/proc/thread-self/ns/pid")
		if err != nil {
			return nil, fmt.Errorf("cannot open our own pid namespace: %w", err)
		}
		defer own.Close()
		r.within, r.back = uint64(len(files)), uint64(len(files)+1)
		files = append(files, o.PidNamespace, own)
	}
	if o.Cgroup != nil {
		r.flags, r.cgroup = r.flags|unix.CLONE_INTO_CGROUP, uint64(len(files))
		files = append(files, o.Cgroup)
	}
	if len(files) > maxDescriptors {
		return nil, fmt.Errorf("cannot start a process with %d files: %w", len(files), unix.EMFILE)
	}
	pid, err := s.bear(r, files)
	if err != nil {
		return nil, fmt.Errorf("cannot fork: %w", err)
	}
	p.theirs.Close()
	if _, err := p.ours.Write(code); err != nil && !errors.Is(err, unix.EPIPE) { // Ready will tell of one that is dead
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = unix.Wait4(pid, nil, 0, nil)
		return nil, fmt.Errorf("cannot tell a new process what to do: %w", err)
	}
	return &Process{Pid: pid, program: p}, nil
}

// bear has the starter make a child and answers its pid.
func (s *Starter) bear(r request, files []*os.File) (int, error) {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.send(r, fds)
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) { // somebody killed it
		if err = s.end(); err == nil {
			err = s.send(r, fds)
		}
	}
	if err != nil {
		return 0, err
	}
	result := []int64{0}
	// When it is killed now there may be a child, which hears from nobody any more, and ends.
	if n, err := s.control.Read(bytesOf(result)); err != nil || n != 8 {
		return 0, fmt.Errorf("what starts processes was killed: %w", errdefs.ErrUnavailable)
	}
	if result[0] < 0 {
		return 0, unix.Errno(-result[0])
	}
	return int(result[0]), nil
}

// send makes a request, of a new process where there is none.
func (s *Starter) send(r request, fds []int) error {
	if s.closed {
		return os.ErrClosed
	}
	if s.control == nil {
		if err := s.begin(); err != nil {
			return err
		}
	}
	conn, err := s.control.SyscallConn()
	if err != nil {
		return err
	}
	data, rights := bytesOf([]request{r}), unix.UnixRights(fds...)
	waitErr := conn.Write(func(fd uintptr) bool {
		err = unix.Sendmsg(int(fd), data, rights, nil, unix.MSG_NOSIGNAL)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	return errors.Join(waitErr, err)
}
