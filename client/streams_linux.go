package client

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/fifo"
)

// fifoDir holds the fifos of clients from the moment they are made until the process has started; a reboot empties it.
const fifoDir = "/run/slipway/fifo"

// open makes the fifos and begins to copy.
func (s Streams) open(ctx context.Context) (_ *attached, err error) {
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	a := &attached{stop: stop}
	if s.LogURI != "" {
		a.stdout, a.stderr = s.LogURI, s.LogURI
		if s.Terminal {
			a.stderr = ""
		}
	}
	if s.Stdin == nil && (s.LogURI != "" || s.Stdout == nil && s.Stderr == nil) {
		return a, nil
	}
	if err := os.MkdirAll(fifoDir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make a place for fifos: %w", err)
	}
	dir, err := os.MkdirTemp(fifoDir, "")
	if err != nil {
		return nil, fmt.Errorf("cannot make a place for fifos: %w", err)
	}
	a.remove = func() { _ = os.RemoveAll(dir) }
	defer func() {
		if err != nil {
			a.cancel()
			err = fmt.Errorf("cannot open fifos: %w", err)
		}
	}()
	if s.Stdin != nil {
		a.stdin = filepath.Join(dir, "stdin")
		f, err := a.fifo(life, a.stdin, syscall.O_WRONLY)
		if err != nil {
			return nil, err
		}
		a.inputEnded = make(chan struct{})
		go func() { // ends with the reader or with the fifo; nobody waits, for a terminal's input never ends
			defer close(a.inputEnded)
			_, _ = io.Copy(f, s.Stdin)
			_ = f.Close()
		}()
	}
	for _, out := range []struct {
		path *string
		w    io.Writer
		name string
	}{{&a.stdout, s.Stdout, "stdout"}, {&a.stderr, s.Stderr, "stderr"}} {
		if out.w == nil || *out.path != "" || s.Terminal && out.name == "stderr" {
			continue
		}
		*out.path = filepath.Join(dir, out.name)
		f, err := a.fifo(life, *out.path, syscall.O_RDONLY)
		if err != nil {
			return nil, err
		}
		a.copyOut(out.w, f)
	}
	return a, nil
}

func (a *attached) fifo(ctx context.Context, path string, mode int) (io.ReadWriteCloser, error) {
	f, err := fifo.OpenFifo(ctx, path, mode|syscall.O_CREAT|syscall.O_NONBLOCK, 0o600)
	if err == nil {
		a.closers = append(a.closers, f)
	}
	return f, err
}
