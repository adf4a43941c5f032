package testsuite

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/slipwayd/slipway/platform"
)

// fakeProcess is a goroutine between Start and its end.
type fakeProcess struct {
	c    *FakeContainer
	id   string
	args []string
	io   platform.IO

	stdinR *io.PipeReader // what the program reads; fed from io.Stdin
	stdinW *io.PipeWriter
	killed chan struct{} // closed by the first deadly signal
	done   chan struct{} // closed at the end, when exit is set

	mu       sync.Mutex
	pid      int
	begun    bool
	signal   int
	exit     platform.Exit
	w, h     uint16
	finished bool
}

func newFakeProcess(c *FakeContainer, id string, s *specs.Process, stdio platform.IO) *fakeProcess {
	p := &fakeProcess{
		c: c, id: id, args: s.Args, io: stdio, w: stdio.Width, h: stdio.Height,
		killed: make(chan struct{}), done: make(chan struct{}),
	}
	p.stdinR, p.stdinW = io.Pipe()
	return p
}

func (p *fakeProcess) ID() string { return p.id }

func (p *fakeProcess) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

func (p *fakeProcess) Started() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.begun
}

func (p *fakeProcess) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.finished
}

func (p *fakeProcess) running() bool { return p.Started() && !p.ended() }

func (p *fakeProcess) Start(ctx context.Context) error {
	if p.id != "" {
		p.c.mu.Lock()
		ok := !p.c.paused && p.c.init.running()
		p.c.mu.Unlock()
		if !ok {
			return fmt.Errorf("cannot start process %q: container %q is not running: %w", p.id, p.c.ID(), errdefs.ErrFailedPrecondition)
		}
	}
	if err := known(p.args); err != nil {
		return fmt.Errorf("cannot start process %q: %w", p.id, err)
	}
	p.c.world.mu.Lock()
	pid := p.c.world.nextPid()
	p.c.world.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.begun || p.finished {
		return fmt.Errorf("cannot start process %q a second time: %w", p.id, errdefs.ErrFailedPrecondition)
	}
	p.begun = true
	if p.pid == 0 {
		p.pid = pid
	}
	if p.io.Stdin == nil {
		p.stdinW.Close()
	} else {
		go func() {
			_, _ = io.Copy(p.stdinW, p.io.Stdin)
			p.stdinW.Close()
		}()
	}
	go func() { p.finish(p.run()) }()
	return nil
}

func known(args []string) error {
	if !slices.Contains([]string{"true", "false", "echo", "cat", "sleep", "sh"}, program(args)) {
		return fmt.Errorf("executable %q not found: %w", args[0], errdefs.ErrInvalidArgument)
	}
	return nil
}

func program(args []string) string { return args[0][strings.LastIndexByte(args[0], '/')+1:] }

// run is the programs a fake knows: true, false, echo WORDS, cat, sleep (for ever), and sh -c with "exit N",
// "echo X >&2" or "read x; stty size".
func (p *fakeProcess) run() uint32 {
	stdout, stderr := p.io.Stdout, p.io.Stderr
	if stdout == nil {
		stdout = io.Discard
	}
	if stderr == nil {
		stderr = io.Discard
	}
	switch program(p.args) {
	case "false":
		return 1
	case "echo":
		fmt.Fprintln(stdout, strings.Join(p.args[1:], " "))
	case "cat":
		_, _ = io.Copy(stdout, p.stdinR)
	case "sleep":
		<-p.killed
	case "sh":
		script := strings.Fields(p.args[len(p.args)-1])
		if strings.Join(script, " ") == "read x; stty size" {
			bufio.NewScanner(p.stdinR).Scan()
			p.mu.Lock()
			fmt.Fprintf(stdout, "%d %d\n", p.h, p.w)
			p.mu.Unlock()
		}
		if len(script) == 2 && script[0] == "exit" {
			n, _ := strconv.Atoi(script[1])
			return uint32(n)
		}
		if len(script) == 3 && script[0] == "echo" && script[2] == ">&2" {
			fmt.Fprintln(stderr, script[1])
		}
	}
	return 0
}

// finish records the end. Init takes the whole container with it.
func (p *fakeProcess) finish(status uint32) {
	p.mu.Lock()
	if p.finished {
		p.mu.Unlock()
		return
	}
	if p.signal != 0 {
		status = 128 + uint32(p.signal)
	}
	p.exit, p.finished = platform.Exit{Status: status, At: time.Now()}, true
	p.mu.Unlock()
	if p.id == "" {
		p.c.mu.Lock()
		execs := mapValues(p.c.execs)
		p.c.mu.Unlock()
		for _, e := range execs {
			e.kill(9)
		}
	}
	close(p.done)
}

func (p *fakeProcess) kill(sig int) {
	p.mu.Lock()
	first, begun := p.signal == 0 && !p.finished, p.begun
	if first {
		p.signal = sig
		close(p.killed)
	}
	p.mu.Unlock()
	if !first {
		return
	}
	p.stdinR.CloseWithError(io.EOF)
	p.stdinW.Close()
	if !begun {
		p.finish(0)
	}
}

func (p *fakeProcess) Signal(ctx context.Context, sig int, all bool) error {
	if sig < 0 || sig > 64 {
		return fmt.Errorf("cannot send signal %d: no such signal: %w", sig, errdefs.ErrInvalidArgument)
	}
	if p.Pid() == 0 || p.ended() {
		return fmt.Errorf("cannot send signal %d to process %q of container %q: it does not run: %w", sig, p.id, p.c.ID(), errdefs.ErrNotFound)
	}
	targets := []*fakeProcess{p}
	if all {
		targets = p.c.living()
	}
	switch sig {
	case 0, 17, 18, 19, 20, 21, 22, 23, 28: // do nothing, or stop and go on
		return nil
	}
	for _, t := range targets {
		t.kill(sig)
	}
	return nil
}

func (p *fakeProcess) Resize(ctx context.Context, width, height uint16) error {
	if !p.io.Terminal {
		return fmt.Errorf("cannot resize process %q: it has no terminal: %w", p.id, errdefs.ErrFailedPrecondition)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.w, p.h = width, height
	return nil
}

func (p *fakeProcess) CloseStdin(ctx context.Context) error { return p.stdinW.Close() }

func (p *fakeProcess) Wait(ctx context.Context) (platform.Exit, error) {
	select {
	case <-p.done:
		return p.exit, nil
	case <-ctx.Done():
		return platform.Exit{}, ctx.Err()
	}
}

func (p *fakeProcess) Delete(ctx context.Context) error {
	if p.running() {
		return fmt.Errorf("cannot delete process %q: it runs; kill it first: %w", p.id, errdefs.ErrFailedPrecondition)
	}
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	delete(p.c.execs, p.id)
	return nil
}
