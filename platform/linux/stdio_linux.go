package linux

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/opencontainers/runc/libcontainer"

	"github.com/slipwayd/slipway/platform"
)

// stdio is our side of a process's standard streams: pipes that we copy, or the master of its terminal. For a process adopted
// from another executor it exists only when Attach gave its terminal back.
type stdio struct {
	io       platform.IO
	child    []*os.File // the process's ends, closed once it has them
	outputs  []copying
	stdin    *os.File // write end of stdin's pipe, nil when there is none
	console  *os.File // socket on which the terminal's master comes
	terminal *os.File // its master
	copied   sync.WaitGroup

	mu     sync.Mutex // guards stdin and terminal against closing
	closed bool
}

type copying struct {
	from *os.File
	to   io.Writer
}

// outputGrace is how long the end of a process waits for its output when others still hold the pipe or terminal open.
const outputGrace = 2 * time.Second

// newStdio makes the pipes or the terminal's socket that p needs and puts them into p. uid and gid own the pipes.
func newStdio(p *libcontainer.Process, streams platform.IO, uid, gid uint32) (_ *stdio, err error) {
	s := &stdio{io: streams}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if streams.Terminal {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("cannot make the socket for a terminal: %w", err)
		}
		s.console = os.NewFile(uintptr(pair[0]), "console")
		p.ConsoleSocket = os.NewFile(uintptr(pair[1]), "console")
		s.child = append(s.child, p.ConsoleSocket)
		return s, nil
	}
	return s, s.pipes(p, uid, gid)
}

// pipes gives files to the process as they are, and a pipe for anything else.
func (s *stdio) pipes(p *libcontainer.Process, uid, gid uint32) error {
	if f, ok := s.io.Stdin.(*os.File); ok {
		p.Stdin = f
	} else if s.io.Stdin != nil {
		r, w, err := ownedPipe(uid, gid)
		if err != nil {
			return err
		}
		p.Stdin, s.stdin = r, w
		s.child = append(s.child, r)
	}
	for _, out := range []struct {
		to    io.Writer
		child *io.Writer
	}{{s.io.Stdout, &p.Stdout}, {s.io.Stderr, &p.Stderr}} {
		if out.child == &p.Stderr && sameWriter(s.io.Stdout, s.io.Stderr) {
			p.Stderr = p.Stdout // one pipe, so that one goroutine at a time writes
			continue
		}
		if f, ok := out.to.(*os.File); ok {
			*out.child = f
		} else if out.to != nil {
			r, w, err := ownedPipe(uid, gid)
			if err != nil {
				return err
			}
			*out.child = w
			s.child = append(s.child, w)
			s.outputs = append(s.outputs, copying{r, out.to})
		}
	}
	return nil
}

// sameWriter is false for writers that cannot be compared.
func sameWriter(a, b io.Writer) bool {
	defer func() { _ = recover() }()
	return a == b
}

func ownedPipe(uid, gid uint32) (r, w *os.File, err error) {
	if r, w, err = os.Pipe(); err != nil {
		return nil, nil, fmt.Errorf("cannot make a pipe for output: %w", err)
	}
	if uid != 0 || gid != 0 {
		for _, f := range []*os.File{r, w} {
			if err := f.Chown(int(uid), int(gid)); err != nil {
				r.Close()
				w.Close()
				return nil, nil, fmt.Errorf("cannot give a pipe to user %d: %w", uid, err)
			}
		}
	}
	return r, w, nil
}

// begin copies, once the process has its ends and its terminal exists.
func (s *stdio) begin() error {
	if s.console != nil {
		master, err := receiveFile(s.console)
		if err != nil {
			return fmt.Errorf("cannot get the terminal of the process: %w", err)
		}
		s.terminal = master
		s.console.Close()
		s.console = nil
	}
	if s.terminal != nil {
		to := s.io.Stdout
		if to == nil {
			to = io.Discard // or the program blocks when the terminal is full
		}
		s.outputs = append(s.outputs, copying{s.terminal, to})
	}
	for _, f := range s.child {
		f.Close()
	}
	s.child = nil
	for _, c := range s.outputs {
		s.copied.Add(1)
		go func() {
			defer s.copied.Done()
			if _, err := io.Copy(c.to, c.from); err != nil {
				_, _ = io.Copy(io.Discard, c.from) // a reader that went away must not stop the program
			}
		}()
	}
	to := s.stdin
	if to == nil {
		to = s.terminal
	}
	if to != nil && s.io.Stdin != nil {
		// This goroutine ends when the caller closes its reader, as it does after Wait.
		go func() {
			_, _ = io.Copy(to, s.io.Stdin)
			s.closeStdin()
		}()
	}
	return nil
}

// receiveFile takes one descriptor off a unix socket (unix(7), SCM_RIGHTS).
func receiveFile(socket *os.File) (*os.File, error) {
	name, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(socket.Fd()), name, rights, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("no descriptor came on the socket: %w", errdefs.ErrInternal)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("no single descriptor came on the socket: %w", errdefs.ErrInternal)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil { // so that Close ends a Read
		unix.Close(fds[0])
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

// finish waits until the output of a process that has ended is copied.
func (s *stdio) finish() {
	if len(s.outputs) == 0 {
		return
	}
	done := make(chan struct{})
	go func() {
		s.copied.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(outputGrace):
	}
}

func (s *stdio) closeStdin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stdin != nil {
		s.stdin.Close()
	}
}

func (s *stdio) resize(width, height uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.terminal == nil || s.closed {
		return fmt.Errorf("it has no terminal: %w", errdefs.ErrFailedPrecondition)
	}
	conn, err := s.terminal.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width})
	})
	if err != nil {
		return err
	}
	return failed
}

// close ends all copying and closes what is ours. It may be repeated.
func (s *stdio) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	for _, f := range s.child {
		f.Close()
	}
	for _, c := range s.outputs {
		c.from.Close()
	}
	for _, f := range []*os.File{s.stdin, s.console, s.terminal} {
		if f != nil {
			f.Close()
		}
	}
}
