package windows

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/windows/hcs"
)

// stdio copies between a process's pipes, which the service makes, and what the caller gave. One that was adopted has those that
// its service gives out again.
type stdio struct {
	process hcs.Process
	outputs []io.ReadCloser
	copied  sync.WaitGroup

	mu    sync.Mutex
	stdin io.WriteCloser // nil when there is none, or it is closed
}

// outputGrace is how long the end of a process waits for its output when others still hold the pipe open.
const outputGrace = 2 * time.Second

func newStdio(streams platform.IO, p hcs.Process) *stdio {
	in, out, err := p.Stdio()
	s := &stdio{process: p, stdin: in}
	shared := streams.Stderr != nil && sameWriter(streams.Stdout, streams.Stderr)
	var one sync.Mutex
	for _, o := range []struct {
		from io.ReadCloser
		to   io.Writer
	}{{out, streams.Stdout}, {err, streams.Stderr}} {
		if o.from == nil {
			continue
		}
		if o.to == nil {
			o.to = io.Discard
		} else if shared {
			o.to = &locked{to: o.to, one: &one}
		}
		s.outputs = append(s.outputs, o.from)
		s.copied.Go(func() {
			if _, err := io.Copy(o.to, o.from); err != nil {
				_, _ = io.Copy(io.Discard, o.from) // a reader that went away must not stop the program
			}
		})
	}
	if in != nil && streams.Stdin != nil {
		// This goroutine ends when the caller closes its reader, as it does after Wait.
		go func() {
			_, _ = io.Copy(in, streams.Stdin)
			_ = s.closeStdin(context.Background())
		}()
	}
	return s
}

// sameWriter is false for writers that cannot be compared.
func sameWriter(a, b io.Writer) bool {
	defer func() { _ = recover() }()
	return a == b
}

// locked lets one of two copies write at a time.
type locked struct {
	to  io.Writer
	one *sync.Mutex
}

func (l *locked) Write(p []byte) (int, error) {
	l.one.Lock()
	defer l.one.Unlock()
	return l.to.Write(p)
}

// closeStdin may be repeated. That the program has ended meanwhile is no error.
func (s *stdio) closeStdin(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stdin == nil {
		return nil
	}
	err := s.process.CloseStdin(ctx)
	s.stdin.Close()
	s.stdin = nil
	if notRunning(err) {
		return nil
	}
	return err
}

// finish waits until the output of a process that has ended is copied.
func (s *stdio) finish() {
	done := make(chan struct{})
	go func() {
		s.copied.Wait()
		close(done)
	}()
	timer := time.NewTimer(outputGrace)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// close ends all copying.
func (s *stdio) close() {
	for _, o := range s.outputs {
		o.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stdin != nil {
		s.stdin.Close()
		s.stdin = nil
	}
}
