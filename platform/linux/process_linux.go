package linux

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/platform"
)

// process is init or an executed process.
type process struct {
	c         *container
	id        string
	adopted   bool
	program   *libcontainer.Process // of an executed process
	spec      json.RawMessage       // the same, for another runtime
	io        platform.IO
	restoring *restoring    // of an init that goes on from a checkpoint
	done      chan struct{} // closed when exit is set

	starting sync.Mutex // one Start at a time

	mu      sync.Mutex
	pid     int
	pidfd   *os.File // open from when pid is set until release
	started bool
	streams *stdio
	exit    platform.Exit
}

func newProcess(c *container, id string) *process {
	return &process{c: c, id: id, done: make(chan struct{})}
}

func (p *process) ID() string { return p.id }

func (p *process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

func (p *process) hasEnded() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) Started() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.started
}

// running is between Start and the end.
func (p *process) running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.started && !p.hasEnded()
}

func (p *process) Start(ctx context.Context) error {
	p.starting.Lock()
	defer p.starting.Unlock()
	if p.Started() || p.hasEnded() {
		return fmt.Errorf("cannot start %s: it was started before, or has ended: %w", p, errdefs.ErrFailedPrecondition)
	}
	var err error
	switch {
	case p.id != "":
		err = p.startExec()
	case p.restoring != nil:
		err = p.startRestored()
	case p.c.cli != nil:
		err = p.startCommand()
	default:
		err = p.startInit()
	}
	if err != nil {
		return fmt.Errorf("cannot start %s: %w", p, err)
	}
	return nil
}

func (p *process) startCommand() error {
	defer p.c.e.reaper.begin()()
	p.mu.Lock()
	p.started = true
	p.mu.Unlock()
	if err := p.c.cli.start(); err != nil {
		p.mu.Lock()
		p.started = p.hasEnded()
		p.mu.Unlock()
		return err
	}
	return nil
}

func (p *process) startExec() error {
	p.c.mu.Lock()
	paused := p.c.paused
	p.c.mu.Unlock()
	if paused || !p.c.init.running() {
		return fmt.Errorf("container %q is paused or does not run: %w", p.c.name(), errdefs.ErrFailedPrecondition)
	}
	streams, err := newStdio(p.program, p.io, 0, 0)
	if err != nil {
		return err
	}
	if err := p.c.run(p, p.program, streams); err != nil {
		streams.close()
		return err
	}
	p.mu.Lock()
	p.started = true
	p.mu.Unlock()
	return nil
}

// ended is called once by the watcher.
func (p *process) ended(exit platform.Exit) {
	if p.id == "" {
		if !p.c.private {
			if err := p.c.killAll(); err != nil {
				p.c.e.log.Warn("cannot end what init left behind", "id", p.c.id, "error", err)
			}
		}
		if exit.Status == 128+uint32(unix.SIGKILL) {
			p.c.tellOOM() // so that its notice comes before the exit
		}
	}
	if err := writeExit(p.c.dir, p.id, exit); err != nil && !errors.Is(err, os.ErrNotExist) {
		p.c.e.log.Warn("cannot keep an exit status for after a restart", "id", p.c.id, "exec", p.id, "error", err)
	}
	p.mu.Lock()
	streams := p.streams
	p.exit = exit
	p.mu.Unlock()
	if streams != nil {
		streams.finish()
	}
	close(p.done)
}

func (p *process) Signal(ctx context.Context, sig int, all bool) error {
	if sig < 0 || sig > 64 {
		return fmt.Errorf("cannot send signal %d to %s: there is no such signal: %w", sig, p, errdefs.ErrInvalidArgument)
	}
	if p.giveUp(unix.Signal(sig)) {
		return nil
	}
	if p.Pid() == 0 || p.hasEnded() {
		return fmt.Errorf("cannot send signal %d to %s: it does not run: %w", sig, p, errdefs.ErrNotFound)
	}
	if !all || p.c.private && sig == int(unix.SIGKILL) && p.id == "" {
		return p.signal(unix.Signal(sig))
	}
	if sig == int(unix.SIGKILL) {
		return p.c.killAll()
	}
	pids, err := p.c.Pids(ctx)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.Signal(sig)); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("cannot send signal %d to process %d of container %q: %w", sig, pid, p.c.name(), err)
		}
	}
	return nil
}

func (p *process) kill() error {
	if p.giveUp(unix.SIGKILL) {
		return nil
	}
	return p.signal(unix.SIGKILL)
}

// signal goes through the pidfd, so that it never reaches another process of the same number.
func (p *process) signal(sig unix.Signal) error {
	p.mu.Lock()
	pidfd := p.pidfd
	p.mu.Unlock()
	if pidfd == nil {
		return fmt.Errorf("cannot signal %s: %w", p, errdefs.ErrNotFound)
	}
	conn, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) { failed = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	switch {
	case err != nil, errors.Is(failed, unix.ESRCH):
		return fmt.Errorf("cannot send %s to %s: it has ended: %w", unix.SignalName(sig), p, errdefs.ErrNotFound)
	case failed != nil:
		return fmt.Errorf("cannot send %s to %s: %w", unix.SignalName(sig), p, failed)
	}
	if sig == unix.SIGKILL && !cgroups.IsCgroup2UnifiedMode() {
		return p.c.thawDying()
	}
	return nil
}

func (p *process) Resize(ctx context.Context, width, height uint16) error {
	p.mu.Lock()
	streams := p.streams
	p.mu.Unlock()
	if streams == nil {
		return fmt.Errorf("cannot resize %s: it does not run yet, or its terminal went with an earlier executor: %w", p, errdefs.ErrFailedPrecondition)
	}
	if err := streams.resize(width, height); err != nil {
		return fmt.Errorf("cannot resize %s: %w", p, err)
	}
	return nil
}

func (p *process) CloseStdin(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams != nil {
		p.streams.closeStdin()
	}
	return nil
}

func (p *process) Wait(ctx context.Context) (platform.Exit, error) {
	select {
	case <-p.done:
		return p.exit, nil
	default:
	}
	select {
	case <-p.done:
		return p.exit, nil
	case <-ctx.Done():
		return platform.Exit{}, ctx.Err()
	case <-p.c.e.closed:
		return platform.Exit{}, fmt.Errorf("cannot wait for %s: the executor was closed: %w", p, errdefs.ErrUnavailable)
	}
}

func (p *process) Delete(ctx context.Context) error {
	if p.id == "" {
		return p.c.Delete(ctx)
	}
	if p.running() {
		return fmt.Errorf("cannot delete %s: it runs; kill it first: %w", p, errdefs.ErrFailedPrecondition)
	}
	p.c.mu.Lock()
	delete(p.c.execs, p.id)
	p.c.mu.Unlock()
	p.release()
	for _, file := range []string{execFile(p.c.dir, p.id), exitFile(p.c.dir, p.id)} {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot delete %s: %w", p, err)
		}
	}
	return nil
}

// release closes the descriptors held for the process; a watcher on it ends.
func (p *process) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd != nil {
		p.pidfd.Close()
	}
	if p.streams != nil {
		p.streams.close()
	}
}

func (p *process) String() string {
	if p.id == "" {
		return fmt.Sprintf("container %q", p.c.name())
	}
	return fmt.Sprintf("process %q of container %q", p.id, p.c.name())
}
