package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/term"

	"github.com/slipwayd/slipway/client"
)

// foreground starts a process and stays with it until its end: the terminal is its own, or signals are passed on to it.
func (a *app) foreground(ctx context.Context, p *client.Process, s client.Streams) (client.Exit, error) {
	ctx = context.WithoutCancel(ctx) // signals are the process's from here on
	if s.Terminal {
		restore, err := a.raw(ctx, p)
		if err != nil {
			return client.Exit{}, err
		}
		defer restore()
	} else {
		defer forwardSignals(ctx, p)()
	}
	if err := p.Start(ctx); err != nil {
		return client.Exit{}, err
	}
	if s.Terminal {
		a.resize(ctx, p)
	}
	exit, err := p.Wait(ctx)
	if err != nil {
		return exit, fmt.Errorf("lost sight of the container, which may still run: %w", err)
	}
	p.Drain()
	return exit, nil
}

// forwardSignals passes on what asks a program to end, until the answer is called.
func forwardSignals(ctx context.Context, p *client.Process) (stop func()) {
	sigs := make(chan os.Signal, 8)
	signal.Notify(sigs, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	return listen(sigs, func(s os.Signal) {
		if n, ok := s.(syscall.Signal); ok {
			_ = p.Kill(ctx, uint32(n), false) // it may have ended meanwhile
		}
	})
}

// raw gives every key to the process, and its size changes too.
func (a *app) raw(ctx context.Context, p *client.Process) (restore func(), err error) {
	in, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return nil, errors.New("--tty needs a terminal as standard input: leave it out or run from a terminal")
	}
	old, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, fmt.Errorf("cannot set the terminal to raw mode: %w", err)
	}
	sizes := make(chan os.Signal, 1)
	notifyResize(sizes)
	stop := listen(sizes, func(os.Signal) { a.resize(ctx, p) })
	return func() {
		stop()
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
