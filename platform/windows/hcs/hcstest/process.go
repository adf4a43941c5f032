package hcstest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/platform/windows/hcs"
)

// programs are what processes can be: echo WORDS, cat, sleep (for ever), and sh -c with "exit N", "echo X >&2" or "read x; stty size".
var programs = []string{"true", "false", "echo", "cat", "sleep", "sh"}

// statuses that Windows gives: of a process that the service terminated (ERROR_PROCESS_ABORTED), and of one that a console event
// ended (STATUS_CONTROL_C_EXIT).
const (
	aborted   = 1067
	controlC  = 0xC000013A
	stillRuns = 259
)

// process needs system.h.mu for all that changes.
type process struct {
	s      *system
	pid    int
	args   []string
	began  time.Time
	params hcs.ProcessParameters

	stdin  *io.PipeReader
	in     *io.PipeWriter
	out    *output
	errs   *output
	killed chan struct{}
	once   sync.Once
	done   chan struct{}
	status uint32
	w, h   uint16
}

func newProcess(s *system, pid int, args []string, params hcs.ProcessParameters) *process {
	p := &process{s: s, pid: pid, args: args, began: time.Now(), params: params, status: stillRuns, killed: make(chan struct{}), done: make(chan struct{})}
	p.stdin, p.in = io.Pipe()
	p.out, p.errs = newOutput(), newOutput()
	if params.ConsoleSize != nil {
		p.h, p.w = params.ConsoleSize[0], params.ConsoleSize[1]
	}
	return p
}

func (p *process) run() {
	stdout, stderr := io.Writer(io.Discard), io.Writer(io.Discard)
	if p.params.CreateStdOutPipe {
		stdout = p.out
	}
	if p.params.CreateStdErrPipe {
		stderr = p.errs
	}
	if !p.params.CreateStdInPipe && !p.params.EmulateConsole { // at a console that nobody types at, a program waits
		p.in.Close()
	}
	status := uint32(0)
	switch script := p.args[len(p.args)-1]; p.args[0] {
	case "false":
		status = 1
	case "echo":
		fmt.Fprintln(stdout, strings.Join(p.args[1:], " "))
	case "cat":
		_, _ = io.Copy(stdout, p.stdin)
	case "sleep":
		<-p.killed
	case "sh":
		if script == "read x; stty size" {
			bufio.NewScanner(p.stdin).Scan()
			p.s.h.mu.Lock()
			size := fmt.Sprintf("%d %d\n", p.h, p.w)
			p.s.h.mu.Unlock()
			_, _ = io.WriteString(stdout, size)
		}
		if n, ok := strings.CutPrefix(script, "exit "); ok {
			i, _ := strconv.Atoi(n)
			status = uint32(i)
		}
		if word, ok := strings.CutSuffix(strings.TrimPrefix(script, "echo "), " >&2"); ok {
			fmt.Fprintln(stderr, word)
		}
	}
	p.s.h.mu.Lock()
	defer p.s.h.mu.Unlock()
	p.end(status)
}

// end needs s.h.mu. Only the first call counts.
func (p *process) end(status uint32) {
	p.once.Do(func() {
		p.status = status
		delete(p.s.processes, p.pid)
		close(p.killed)
		p.stdin.CloseWithError(io.EOF)
		p.in.Close()
		p.out.end()
		p.errs.end()
		if !p.s.silent {
			close(p.done)
		}
	})
}

// act runs f while the process runs.
func (p *process) act(operation string, f func()) error {
	p.s.h.mu.Lock()
	defer p.s.h.mu.Unlock()
	if err := p.s.h.failing(operation); err != nil {
		return err
	}
	if p.status != stillRuns {
		return fmt.Errorf("process %d has ended: %w", p.pid, errdefs.ErrNotFound)
	}
	f()
	return nil
}

func (p *process) Pid() int { return p.pid }

func (p *process) Stdio() (stdin io.WriteCloser, stdout, stderr io.ReadCloser) {
	if p.params.CreateStdInPipe {
		stdin = input{p.in}
	}
	if p.params.CreateStdOutPipe {
		stdout = p.out.open()
	}
	if p.params.CreateStdErrPipe {
		stderr = p.errs.open()
	}
	return stdin, stdout, stderr
}

func (p *process) Signal(ctx context.Context, s hcs.Signal) error {
	if p.s.h.NoSignals {
		return fmt.Errorf("signals: %w", errdefs.ErrNotImplemented)
	}
	return p.act("Signal", func() { p.end(controlC) })
}

func (p *process) Kill(ctx context.Context) error {
	return p.act("Kill", func() { p.end(aborted) })
}

func (p *process) Resize(ctx context.Context, width, height uint16) error {
	return p.act("Resize", func() { p.w, p.h = width, height })
}

func (p *process) CloseStdin(ctx context.Context) error {
	return p.act("CloseStdin", func() { p.in.Close() })
}

func (p *process) Wait(ctx context.Context) (uint32, error) {
	select {
	case <-p.done:
		return p.status, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (p *process) Close() error { return nil }
