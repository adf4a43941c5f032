package windows

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/platform/windows/hcs"
)

// Signals as clients send them: Linux' numbers.
const (
	sigHup  = 1
	sigInt  = 2
	sigQuit = 3
	sigKill = 9
	sigTerm = 15
)

var consoleEvents = map[int]hcs.Signal{sigHup: hcs.CtrlClose, sigInt: hcs.CtrlC, sigQuit: hcs.CtrlBreak, sigTerm: hcs.CtrlShutdown}

func (p *process) Signal(ctx context.Context, sig int, all bool) error {
	event := consoleEvents[sig]
	if event == "" && sig != 0 && sig != sigKill {
		return fmt.Errorf("cannot send signal %d to %s: Windows has only HUP, INT, QUIT, TERM and KILL: %w", sig, p, errdefs.ErrInvalidArgument)
	}
	p.mu.Lock()
	handle := p.handle
	p.mu.Unlock()
	if handle == nil || p.hasEnded() {
		return fmt.Errorf("cannot send signal %d to %s: it does not run: %w", sig, p, errdefs.ErrNotFound)
	}
	var err error
	switch {
	case sig == 0:
	case sig == sigKill && (all || p.id == "" && p.c.isPaused()): // what is paused cannot be opened to be killed
		err = p.c.killAll(ctx)
	case sig == sigKill:
		err = p.kill(ctx, handle)
	case all:
		err = p.c.signalAll(ctx, event)
	default:
		err = p.signal(ctx, handle, event)
	}
	if err != nil {
		return fmt.Errorf("cannot send signal %d to %s: %w", sig, p, err)
	}
	return nil
}

func (p *process) kill(ctx context.Context, handle hcs.Process) error {
	p.killing.Lock()
	defer p.killing.Unlock()
	if err := handle.Kill(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killed = true
	return nil
}

// signal sends a console event. Hosts that know none can still shut down the whole container, which is what TERM to init is for.
func (p *process) signal(ctx context.Context, handle hcs.Process, event hcs.Signal) error {
	err := handle.Signal(ctx, event)
	if errdefs.IsNotImplemented(err) && p.id == "" && event == hcs.CtrlShutdown {
		return p.c.system.Shutdown(ctx)
	}
	return err
}

// killAll terminates the system, and with it every process.
func (c *container) killAll(ctx context.Context) error {
	c.init.killing.Lock()
	defer c.init.killing.Unlock()
	c.mu.Lock()
	c.ending = true
	c.mu.Unlock()
	if err := c.system.Terminate(ctx); err != nil {
		return err
	}
	c.init.mu.Lock()
	defer c.init.mu.Unlock()
	c.init.killed = true
	return nil
}

// signalAll reaches the processes that we started: the service knows no others.
func (c *container) signalAll(ctx context.Context, event hcs.Signal) error {
	for _, p := range append(c.Processes(), c.init) {
		p := p.(*process)
		p.mu.Lock()
		handle := p.handle
		p.mu.Unlock()
		if handle == nil || p.hasEnded() {
			continue
		}
		if err := p.signal(ctx, handle, event); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}
