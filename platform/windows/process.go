package windows

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/windows/document"
	"github.com/slipwayd/slipway/platform/windows/hcs"
)

// Statuses of what ended otherwise than by exiting, as on Linux.
const (
	statusKilled  = 128 + sigKill
	statusUnknown = 255
	statusFailed  = 128 // init could not be started
)

// process is init or an executed process.
type process struct {
	c        *container
	id       string
	params   hcs.ProcessParameters
	io       platform.IO
	terminal bool
	done     chan struct{} // closed when exit is set and output is copied

	starting sync.Mutex // one Start at a time
	killing  sync.Mutex // held while it is killed, so that its end is not told before the killing is known to have worked

	mu      sync.Mutex
	pid     int
	started bool
	killed  bool // by us
	handle  hcs.Process
	streams *stdio
	exit    platform.Exit
}

func newProcess(c *container, id string) *process {
	return &process{c: c, id: id, done: make(chan struct{})}
}

// prepareInit makes the program of the record's process ready to start.
func (c *container) prepareInit(streams platform.IO) error {
	params, err := document.Process(&c.record.Process)
	if err != nil {
		return err
	}
	streams.Terminal, streams.Width, streams.Height = c.record.Terminal, c.record.Width, c.record.Height
	c.init.prepare(params, &c.record.Process, streams)
	return nil
}

// prepare decides about the pipes of a program: one for each stream that somebody wants, and one for all output of a console.
func (p *process) prepare(params hcs.ProcessParameters, spec *specs.Process, streams platform.IO) {
	params.CreateStdInPipe = streams.Stdin != nil
	params.CreateStdOutPipe = streams.Stdout != nil || streams.Terminal // a console that nobody reads would stop the program
	params.CreateStdErrPipe = streams.Stderr != nil && !streams.Terminal
	p.params, p.io, p.terminal = params, streams, streams.Terminal
	if !p.terminal {
		return
	}
	p.params.EmulateConsole = true
	switch size := spec.ConsoleSize; {
	case streams.Width != 0 && streams.Height != 0:
		p.params.ConsoleSize = &[2]uint16{streams.Height, streams.Width}
	case size != nil && size.Width-1 < 0x7fff && size.Height-1 < 0x7fff:
		p.params.ConsoleSize = &[2]uint16{uint16(size.Height), uint16(size.Width)}
	}
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
func (p *process) running() bool { return p.Started() && !p.hasEnded() }

func (p *process) Start(ctx context.Context) error {
	p.starting.Lock()
	defer p.starting.Unlock()
	if p.Started() || p.hasEnded() {
		return fmt.Errorf("cannot start %s: it was started before, or has ended: %w", p, errdefs.ErrFailedPrecondition)
	}
	var err error
	if p.id == "" {
		err = p.startInit(ctx)
	} else {
		err = p.startExec(ctx)
	}
	if err != nil {
		return fmt.Errorf("cannot start %s: %w", p, err)
	}
	return nil
}

// startInit boots the system and runs its program. One that cannot run ends the container.
func (p *process) startInit(ctx context.Context) error {
	if p.c.system == nil {
		return fmt.Errorf("its compute system is gone: %w", errdefs.ErrFailedPrecondition)
	}
	err := p.c.system.Start(ctx)
	if err == nil {
		err = p.run(ctx)
	}
	if err == nil {
		return nil
	}
	if end := p.c.endSystem(context.WithoutCancel(ctx), false); end != nil {
		p.c.e.log.Warn("cannot end a container whose program did not start", "id", p.c.id, "error", end)
	}
	p.closeWith(platform.Exit{Status: statusFailed, At: time.Now()})
	return err
}

func (p *process) startExec(ctx context.Context) error {
	if p.c.isPaused() || !p.c.init.running() {
		return fmt.Errorf("container %q is paused or does not run: %w", p.c.name(), errdefs.ErrFailedPrecondition)
	}
	return p.run(ctx)
}

// run has the service start the program, and watches it.
func (p *process) run(ctx context.Context) error {
	p.mu.Lock()
	params := p.params
	p.mu.Unlock()
	handle, err := p.c.system.CreateProcess(ctx, params)
	if err != nil {
		return err
	}
	r := processRecord{Pid: handle.Pid(), At: time.Now(), Terminal: p.terminal}
	if err := replace(filepath.Join(p.c.dir, initFile(p.id)), r); err != nil {
		err = errors.Join(err, handle.Kill(ctx))
		handle.Close()
		return fmt.Errorf("cannot keep its pid for after a restart: %w", err)
	}
	streams := newStdio(p.io, handle)
	p.mu.Lock()
	p.pid, p.started, p.streams = r.Pid, true, streams
	p.mu.Unlock()
	p.watch(handle)
	return nil
}

// lastNotices is how long after the end of a system its processes' ends may be told.
const lastNotices = 2 * time.Second

// watch waits in the background for the process to end.
func (p *process) watch(handle hcs.Process) {
	p.mu.Lock()
	p.handle = handle
	p.mu.Unlock()
	life, ended := p.c.e.life, make(chan struct{})
	ctx, stop := context.WithCancel(life)
	p.c.e.background.Go(func() {
		defer stop()
		defer close(ended)
		status, err := handle.Wait(ctx)
		if err != nil && life.Err() != nil {
			return // the executor was closed
		}
		exit := platform.Exit{Status: status, At: time.Now()}
		if err != nil {
			exit.Status, exit.Unknown = statusUnknown, true
			p.c.e.log.Warn("cannot tell how a process ended", "id", p.c.id, "exec", p.id, "error", err)
		}
		p.ended(exit)
	})
	p.c.e.background.Go(func() { // gives up should the service keep silent
		select {
		case <-p.c.gone:
		case <-ctx.Done():
			return
		}
		timer := time.NewTimer(lastNotices)
		defer timer.Stop()
		select {
		case <-timer.C:
			stop()
		case <-ended:
		case <-life.Done():
		}
	})
}

// ended is called once by the watcher.
func (p *process) ended(exit platform.Exit) {
	p.killing.Lock()
	p.mu.Lock()
	killed := p.killed
	p.mu.Unlock()
	p.killing.Unlock()
	p.c.mu.Lock()
	killed = killed || p.c.ending && p.id != ""
	p.c.mu.Unlock()
	if killed {
		exit.Status, exit.Unknown = statusKilled, false
	}
	if err := replace(filepath.Join(p.c.dir, exitFile(p.id)), exit); err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.c.e.log.Warn("cannot keep an exit status for after a restart", "id", p.c.id, "exec", p.id, "error", err)
	}
	if p.id == "" { // everything ends with init
		if err := p.c.endSystem(p.c.e.life, !killed); err != nil {
			if p.c.e.life.Err() != nil {
				return
			}
			p.c.e.log.Error("what init left behind goes on running", "id", p.c.id, "error", err)
		}
	}
	p.mu.Lock()
	streams := p.streams
	p.mu.Unlock()
	if streams != nil {
		streams.finish()
	}
	p.closeWith(exit)
}

// closeWith makes exit known.
func (p *process) closeWith(exit platform.Exit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exit = exit
	close(p.done)
}

// neverRan ends a process that was not started; one that was is left alone.
func (p *process) neverRan() {
	p.starting.Lock()
	defer p.starting.Unlock()
	if !p.Started() && !p.hasEnded() {
		p.closeWith(platform.Exit{Status: statusKilled, At: time.Now()})
	}
}

func (p *process) Resize(ctx context.Context, width, height uint16) error {
	if !p.terminal {
		return fmt.Errorf("cannot resize %s: it has no terminal: %w", p, errdefs.ErrFailedPrecondition)
	}
	p.mu.Lock()
	handle := p.handle
	if handle == nil {
		p.params.ConsoleSize = &[2]uint16{height, width}
	}
	p.mu.Unlock()
	if handle == nil {
		return nil
	}
	if err := handle.Resize(ctx, width, height); err != nil {
		return fmt.Errorf("cannot resize %s: %w", p, err)
	}
	return nil
}

func (p *process) CloseStdin(ctx context.Context) error {
	p.mu.Lock()
	streams := p.streams
	p.mu.Unlock()
	if streams == nil {
		return nil
	}
	return streams.closeStdin(ctx)
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
	case <-p.c.e.life.Done():
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
	for _, file := range []string{initFile(p.id), exitFile(p.id)} {
		if err := os.Remove(filepath.Join(p.c.dir, file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot delete %s: %w", p, err)
		}
	}
	return nil
}

// release closes what is held for the process.
func (p *process) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams != nil {
		p.streams.close()
	}
	if p.handle != nil {
		p.handle.Close()
	}
}

func (p *process) String() string {
	if p.id == "" {
		return fmt.Sprintf("container %q", p.c.name())
	}
	return fmt.Sprintf("process %q of container %q", p.id, p.c.name())
}
