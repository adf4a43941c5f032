package linux

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/platform"
)

var _ platform.Reattacher = (*process)(nil)

// Terminal answers a duplicate of the master.
func (p *process) Terminal() (*os.File, error) {
	p.mu.Lock()
	streams := p.streams
	p.mu.Unlock()
	if streams == nil {
		return nil, fmt.Errorf("%s has no terminal: %w", p, errdefs.ErrNotFound)
	}
	streams.mu.Lock()
	defer streams.mu.Unlock()
	if streams.terminal == nil || streams.closed {
		return nil, fmt.Errorf("%s has no terminal: %w", p, errdefs.ErrNotFound)
	}
	raw, err := streams.terminal.SyscallConn()
	if err != nil {
		return nil, err
	}
	var dup int
	cerr := raw.Control(func(fd uintptr) { dup, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(cerr, err); err != nil {
		return nil, fmt.Errorf("cannot duplicate the terminal of %s: %w", p, err)
	}
	return os.NewFile(uintptr(dup), "terminal"), nil
}

// Attach goes on copying between a terminal, which is polled already, and the streams. The end of the process may be noticed meanwhile: who
// comes second, that or Attach, waits for the output.
func (p *process) Attach(terminal *os.File, streams platform.IO) error {
	s := &stdio{io: streams, terminal: terminal}
	if !p.adopted {
		s.close()
		return fmt.Errorf("cannot give %s a terminal: it was not adopted: %w", p, errdefs.ErrFailedPrecondition)
	}
	p.mu.Lock()
	taken := p.streams != nil
	if !taken {
		_ = s.begin() // it receives nothing
		p.streams = s
	}
	ended := !p.exit.At.IsZero()
	p.mu.Unlock()
	if taken {
		s.close()
		return fmt.Errorf("%s has its terminal already: %w", p, errdefs.ErrFailedPrecondition)
	}
	if ended {
		s.finish()
	}
	return nil
}
