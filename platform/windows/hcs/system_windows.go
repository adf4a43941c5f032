package hcs

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/Microsoft/hcsshim"
	"github.com/containerd/errdefs"
)

// system is a compute system by two handles, hcsshim's and one of our own.
type system struct {
	vm     *vmcompute
	handle uintptr
	c      hcsshim.Container
	ended  chan struct{} // closed when err is set
	err    error
	once   sync.Once // of Close
}

// watch ends with the system, or with Close.
func (s *system) watch() {
	s.err = s.c.Wait()
	close(s.ended)
}

func (s *system) Start(ctx context.Context) error  { return classify(s.c.Start()) }
func (s *system) Pause(ctx context.Context) error  { return classify(s.c.Pause()) }
func (s *system) Resume(ctx context.Context) error { return classify(s.c.Resume()) }

func (s *system) Shutdown(ctx context.Context) error  { return began(s.c.Shutdown()) }
func (s *system) Terminate(ctx context.Context) error { return began(s.c.Terminate()) }

// began takes that an operation is under way, or that there is nothing left to do, for no error.
func began(err error) error {
	if err = classify(err); err == nil || isPending(err) || errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

func (s *system) Wait(ctx context.Context) error {
	select {
	case <-s.ended:
		return s.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *system) Modify(ctx context.Context, request json.RawMessage) error {
	return s.vm.modifySystem(s.handle, string(request))
}

func (s *system) Properties(ctx context.Context, types ...string) (json.RawMessage, error) {
	query := struct {
		PropertyTypes []string `json:",omitempty"`
	}{types}
	text, err := json.Marshal(query)
	if err != nil {
		return nil, err
	}
	document, err := s.vm.getProperties(s.handle, string(text))
	return json.RawMessage(document), err
}

func (s *system) CreateProcess(ctx context.Context, p ProcessParameters) (Process, error) {
	config := &hcsshim.ProcessConfig{
		CommandLine: p.CommandLine, User: p.User, WorkingDirectory: p.WorkingDirectory, Environment: p.Environment,
		EmulateConsole: p.EmulateConsole, CreateStdInPipe: p.CreateStdInPipe, CreateStdOutPipe: p.CreateStdOutPipe, CreateStdErrPipe: p.CreateStdErrPipe,
	}
	if p.ConsoleSize != nil {
		config.ConsoleSize = [2]uint{uint(p.ConsoleSize[0]), uint(p.ConsoleSize[1])}
	}
	made, err := s.c.CreateProcess(config)
	if err != nil {
		return nil, fmt.Errorf("the service did not run the program: %w", classifyProgram(err))
	}
	process := s.process(made)
	if process.in, process.out, process.errs, err = made.Stdio(); err != nil {
		_ = made.Kill()
		process.Close()
		return nil, classify(err)
	}
	return process, nil
}

func (s *system) OpenProcess(ctx context.Context, pid int) (Process, error) {
	opened, err := s.c.OpenProcess(pid)
	if err != nil {
		// A process that has ended is no argument that was wrong.
		if err = classify(err); errdefs.IsInvalidArgument(err) {
			return nil, fmt.Errorf("process %d: %v: %w", pid, err, errdefs.ErrNotFound)
		}
		return nil, err
	}
	process := s.process(opened)
	process.reopenPipes()
	return process, nil
}

func (s *system) process(p hcsshim.Process) *process {
	made := &process{s: s, p: p, ended: make(chan struct{})}
	go made.watch()
	return made
}

// Close waits until nobody waits.
func (s *system) Close() (err error) {
	s.once.Do(func() {
		s.vm.closeSystem(s.handle)
		err = s.c.Close()
	})
	<-s.ended
	return classify(err)
}

// process is a process by hcsshim's handle.
type process struct {
	s         *system
	p         hcsshim.Process
	in        io.WriteCloser
	out, errs io.ReadCloser
	ended     chan struct{} // closed when status and err are set
	status    uint32
	err       error
}

// watch ends with the process, or with Close.
func (p *process) watch() {
	defer close(p.ended)
	if p.err = p.p.Wait(); p.err != nil {
		return
	}
	status, err := p.p.ExitCode()
	p.status, p.err = uint32(status), err
}

func (p *process) Pid() int { return p.p.Pid() }

func (p *process) Stdio() (stdin io.WriteCloser, stdout, stderr io.ReadCloser) {
	return p.in, p.out, p.errs
}

func (p *process) Signal(ctx context.Context, s Signal) error {
	options, err := json.Marshal(struct{ Signal Signal }{s})
	if err != nil {
		return err
	}
	return p.s.vm.signalProcess(p.s.handle, p.Pid(), string(options))
}

func (p *process) Kill(ctx context.Context) error { return classify(p.p.Kill()) }

func (p *process) Resize(ctx context.Context, width, height uint16) error {
	return classify(p.p.ResizeConsole(width, height))
}

func (p *process) CloseStdin(ctx context.Context) error { return classify(p.p.CloseStdin()) }

func (p *process) Wait(ctx context.Context) (uint32, error) {
	select {
	case <-p.ended:
		return p.status, classify(p.err)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// reopenPipes has the service give out the pipes of a process that an earlier owner made. Without them it is as good as without its output.
func (p *process) reopenPipes() {
	handles, err := p.s.vm.processPipes(p.s.handle, p.Pid())
	if err != nil {
		return
	}
	for i, h := range handles {
		if h == 0 {
			continue
		}
		again, err := newPipe(h)
		if err != nil {
			continue
		}
		switch i {
		case 0:
			p.in = again
		case 1:
			p.out = again
		case 2:
			p.errs = again
		}
	}
}

// Close waits until nobody waits.
func (p *process) Close() error {
	for _, c := range []io.Closer{p.in, p.out, p.errs} {
		if pipe, ok := c.(*pipe); ok { // maybe nobody took it
			pipe.Close()
		}
	}
	err := p.p.Close()
	<-p.ended
	return classify(err)
}
