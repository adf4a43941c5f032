package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/term"

	"github.com/slipwayd/slipway/client"
)

// foreground starts a process and stays with it until its end: the terminal is its own, or signals are passed on to it.
func (a *app) foreground(ctx context.Context, p *client.Process, s client.Streams) (client.Exit, error) {
	ctx = context.WithoutCancel(ctx) // signals are the process's from here on
	waiting, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	if s.Terminal && s.Stdin != nil {
		restore, err := a.raw(ctx, p)
		if err != nil {
			p.Drain() // takes the fifos away
			return client.Exit{}, err
		}
		defer restore()
	} else {
		defer forwardSignals(ctx, p, giveUp)()
	}
	var exit client.Exit
	ended := make(chan error, 1)
	go func() { // beside Start: of a process that ends at once that saves a round trip
		var err error
		exit, err = a.wait(waiting, p)
		ended <- err
	}()
	if err := p.Start(ctx); err != nil {
		giveUp(nil)
		<-ended
		return client.Exit{}, err
	}
	if s.Terminal {
		a.resize(ctx, p)
	}
	if err := <-ended; err != nil {
		return exit, &lostSight{err}
	}
	p.Drain()
	return exit, nil
}

// lostSight is a process whose end will not be known here. It may go on.
type lostSight struct{ error }

func (e *lostSight) Error() string {
	return "lost sight of the container, which may still run: " + e.error.Error()
}
func (e *lostSight) Unwrap() error { return e.error }

// reconnect is how often a daemon that is away is asked again.
const reconnect = 500 * time.Millisecond

// wait waits for the end of a process, over restarts of the daemon: the process and its streams do not notice them either.
func (a *app) wait(ctx context.Context, p *client.Process) (client.Exit, error) {
	for said := false; ; {
		exit, err := p.Wait(ctx)
		if err == nil || ctx.Err() == nil && !errdefs.IsUnavailable(err) {
			return exit, err
		}
		if !said && ctx.Err() == nil {
			said = true
			fmt.Fprintf(a.err, "slipway: the daemon at %s is away; the container goes on, waiting for the daemon to come back\r\n", a.address)
		}
		select {
		case <-ctx.Done():
			return exit, context.Cause(ctx)
		case <-time.After(reconnect):
		}
	}
}

// patience is how many requests to end a process may ignore before it is killed.
const patience = 3

// forwardSignals passes on what asks a program to end, until the answer is called. Init of a container ignores what it has
// no handler for, so a user who insists kills it. When not even that can be passed on, giveUp is called.
func forwardSignals(ctx context.Context, p *client.Process, giveUp context.CancelCauseFunc) (stop func()) {
	sigs := make(chan os.Signal, 8)
	signal.Notify(sigs, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	asked := 0
	return listen(sigs, func(s os.Signal) {
		n, _ := s.(syscall.Signal)
		if asked++; asked >= patience {
			n = syscall.SIGKILL
		}
		within, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if err := p.Kill(within, uint32(n), false); err != nil && !errdefs.IsNotFound(err) && asked >= patience {
			giveUp(fmt.Errorf("cannot kill it: %w", err))
		}
	})
}

// raw gives every key to the process, and its size changes too.
func (a *app) raw(ctx context.Context, p *client.Process) (restore func(), err error) {
	in, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return nil, errors.New("--tty with --interactive needs a terminal as standard input: leave --tty out or run from a terminal")
	}
	old, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, fmt.Errorf("cannot set the terminal to raw mode: %w", err)
	}
	out, _ := a.out.(*os.File)
	if out == nil {
		out = in
	}
	plain, err := rawOutput(out)
	if err != nil {
		_ = term.Restore(int(in.Fd()), old)
		return nil, fmt.Errorf("cannot have the console show what programs write: %w", err)
	}
	sizes := make(chan os.Signal, 1)
	unwatch := watchSize(out, sizes)
	stop := listen(sizes, func(os.Signal) { a.resize(ctx, p) })
	return func() {
		unwatch()
		stop()
		plain()
		_ = term.Restore(int(in.Fd()), old)
	}, nil
}

func (a *app) resize(ctx context.Context, p *client.Process) {
	out, ok := a.out.(*os.File)
	if !ok {
		return
	}
	if w, h, err := term.GetSize(int(out.Fd())); err == nil {
		if err := p.Resize(ctx, uint32(w), uint32(h)); err != nil && !errdefs.IsNotFound(err) {
			fmt.Fprintf(a.err, "slipway: cannot resize the terminal: %v\r\n", err)
		}
	}
}

// listen calls fn for each signal until the answer is called, which waits for fn.
func listen(sigs chan os.Signal, fn func(os.Signal)) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case s := <-sigs:
				fn(s)
			case <-quit:
				return
			}
		}
	}()
	return func() {
		signal.Stop(sigs)
		close(quit)
		<-done
	}
}
