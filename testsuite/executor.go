package testsuite

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/platform"
)

// ExecutorFixture is an executor under test with what only its maker knows.
type ExecutorFixture struct {
	Executor platform.Executor
	// Spec answers a container that runs args, with an empty bundle and a root file system that has busybox in it.
	Spec func(t *testing.T, id string, args ...string) platform.Spec
	// Restart ends Executor as a shim that is replaced does, and answers a new one over the same state.
	Restart func(t *testing.T) platform.Executor
	// Process answers the runtime-spec process object that runs args; nil for args as they are, in /.
	Process func(args ...string) json.RawMessage
	// LateStart says that init exists from its Start on only, as on Windows, which then tells that there is no such program.
	LateStart bool
	// FixedLimits says that Update is NotImplemented, and NoPause that Pause is.
	FixedLimits, NoPause bool
	// NoSize says that programs cannot see the size of their terminal.
	NoSize bool
}

// TestExecutor holds an implementation of platform.Executor to its contract. It uses only programs that FakeExecutor knows.
func TestExecutor(t *testing.T, fixture func(t *testing.T) ExecutorFixture) {
	for name, test := range map[string]func(*executorTest){
		"ExitCodes":        (*executorTest).exitCodes,
		"Output":           (*executorTest).output,
		"Files":            (*executorTest).files,
		"Stdin":            (*executorTest).stdin,
		"Terminal":         (*executorTest).terminal,
		"Signal":           (*executorTest).signal,
		"Waiters":          (*executorTest).waiters,
		"Delete":           (*executorTest).delete,
		"BadSpecs":         (*executorTest).badSpecs,
		"Exec":             (*executorTest).execs,
		"ExecErrors":       (*executorTest).execErrors,
		"ShortExecs":       (*executorTest).shortExecs,
		"ExecEndsWithInit": (*executorTest).execEndsWithInit,
		"Pause":            (*executorTest).pause,
		"Update":           (*executorTest).update,
		"Stats":            (*executorTest).stats,
		"Adopt":            (*executorTest).adopt,
		"AdoptCreated":     (*executorTest).adoptCreated,
		"AdoptEnded":       (*executorTest).adoptEnded,
		"AdoptTerminal":    (*executorTest).adoptTerminal,
		"LastWords":        (*executorTest).adoptTerminalOfEnded,
		"Together":         (*executorTest).together,
	} {
		t.Run(name, func(t *testing.T) {
			x := &executorTest{T: t, ExecutorFixture: fixture(t), ctx: t.Context()}
			test(x)
			if ids, err := x.Executor.List(context.WithoutCancel(x.ctx)); err != nil || len(ids) != 0 {
				t.Errorf("List at the end = %v, %v; want none", ids, err)
			}
		})
	}
}

type executorTest struct {
	*testing.T
	ExecutorFixture
	ctx context.Context
}

func (x *executorTest) create(s platform.Spec) platform.Container {
	x.Helper()
	c, err := x.Executor.Create(x.ctx, s)
	if err != nil {
		x.Fatalf("Create: %v", err)
	}
	return c
}

func (x *executorTest) start(p platform.Process) {
	x.Helper()
	if err := p.Start(x.ctx); err != nil {
		x.Fatalf("Start: %v", err)
	}
}

func (x *executorTest) wait(p platform.Process) platform.Exit {
	x.Helper()
	exit, err := p.Wait(x.ctx)
	if err != nil {
		x.Fatalf("Wait: %v", err)
	}
	return exit
}

func (x *executorTest) remove(c platform.Container) {
	x.Helper()
	if err := c.Delete(x.ctx); err != nil {
		x.Fatalf("Delete: %v", err)
	}
}

func (x *executorTest) kill(p platform.Process) {
	x.Helper()
	if err := p.Signal(x.ctx, 9, false); err != nil {
		x.Fatalf("Signal: %v", err)
	}
}

func (x *executorTest) is(err, want error, what string) {
	x.Helper()
	if !errors.Is(err, want) {
		x.Errorf("%s: error %v; want %v", what, err, want)
	}
}

func (x *executorTest) process(args ...string) json.RawMessage {
	if x.Process != nil {
		return x.Process(args...)
	}
	data, err := json.Marshal(specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}})
	if err != nil {
		panic(err)
	}
	return data
}

func (x *executorTest) exitCodes() {
	for i, test := range []struct {
		args []string
		want uint32
	}{{[]string{"true"}, 0}, {[]string{"false"}, 1}, {[]string{"sh", "-c", "exit 42"}, 42}} {
		c := x.create(x.Spec(x.T, fmt.Sprintf("exit%d", i), test.args...))
		if c.Init().Pid() == 0 && !x.LateStart {
			x.Error("init has no pid after Create")
		}
		x.start(c.Init())
		if c.Init().Pid() == 0 {
			x.Error("init has no pid after Start")
		}
		if exit := x.wait(c.Init()); exit.Status != test.want || exit.Unknown || exit.At.IsZero() {
			x.Errorf("%v: exit %+v, want status %d", test.args, exit, test.want)
		}
		x.is(c.Init().Start(x.ctx), errdefs.ErrFailedPrecondition, "Start a second time")
		x.remove(c)
	}
}

func (x *executorTest) output() {
	var stdout, stderr bytes.Buffer
	s := x.Spec(x.T, "out", "echo", "hello", "world")
	s.IO = platform.IO{Stdout: &stdout, Stderr: &stderr}
	c := x.create(s)
	x.start(c.Init())
	x.wait(c.Init())
	x.remove(c)
	s = x.Spec(x.T, "err", "sh", "-c", "echo oops >&2")
	s.IO = platform.IO{Stdout: &stdout, Stderr: &stderr}
	c = x.create(s)
	x.start(c.Init())
	x.wait(c.Init())
	x.remove(c)
	if stdout.String() != "hello world\n" || stderr.String() != "oops\n" {
		x.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
	}
}

func (x *executorTest) files() {
	r, w, err := os.Pipe()
	if err != nil {
		x.Fatal(err)
	}
	defer r.Close()
	s := x.Spec(x.T, "files", "echo", "through")
	s.IO = platform.IO{Stdout: w}
	c := x.create(s)
	x.start(c.Init())
	x.wait(c.Init())
	x.remove(c)
	if err := w.Close(); err != nil { // it is ours still
		x.Errorf("the executor closed a file it was given: %v", err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != "through\n" {
		x.Errorf("read %q, %v", got, err)
	}
}

func (x *executorTest) stdin() {
	var out bytes.Buffer
	in, feed := io.Pipe()
	s := x.Spec(x.T, "in", "cat")
	s.IO = platform.IO{Stdin: in, Stdout: &out}
	c := x.create(s)
	x.start(c.Init())
	if _, err := io.WriteString(feed, "typed\n"); err != nil {
		x.Fatal(err)
	}
	feed.Close()
	x.wait(c.Init())
	x.remove(c)
	if out.String() != "typed\n" {
		x.Errorf("cat wrote %q", out.String())
	}

	in, feed = io.Pipe()
	s = x.Spec(x.T, "in", "cat")
	s.IO = platform.IO{Stdin: in}
	c = x.create(s)
	x.start(c.Init())
	if err := c.Init().CloseStdin(x.ctx); err != nil {
		x.Errorf("CloseStdin: %v", err)
	}
	x.wait(c.Init())
	feed.Close()
	x.remove(c)
}

func (x *executorTest) terminal() {
	streams := func(out io.Writer) (platform.IO, io.WriteCloser) {
		in, feed := io.Pipe()
		return platform.IO{Stdin: in, Stdout: out, Terminal: true, Width: 80, Height: 24}, feed
	}
	look := func(p platform.Process, feed io.WriteCloser, out *bytes.Buffer, want string) {
		x.Helper()
		if _, err := io.WriteString(feed, "go\n"); err != nil {
			x.Fatal(err)
		}
		x.wait(p)
		feed.Close()
		if !strings.Contains(out.String(), want) && !x.NoSize || out.Len() == 0 {
			x.Errorf("the terminal wrote %q, want its size %s", out.String(), want)
		}
	}
	for _, resize := range []bool{false, true} {
		var out bytes.Buffer
		var feed io.WriteCloser
		s := x.Spec(x.T, "tty", "sh", "-c", "read x; stty size")
		setTerminal(x.T, &s)
		s.IO, feed = streams(&out)
		c := x.create(s)
		x.start(c.Init())
		want := "24 80"
		if resize {
			if err := c.Init().Resize(x.ctx, 132, 43); err != nil {
				x.Errorf("Resize: %v", err)
			}
			want = "43 132"
		}
		look(c.Init(), feed, &out, want)
		x.remove(c)
	}

	c := x.create(x.Spec(x.T, "notty", "sleep", "1000"))
	x.start(c.Init())
	x.is(c.Init().Resize(x.ctx, 1, 1), errdefs.ErrFailedPrecondition, "Resize without a terminal")
	var out bytes.Buffer
	stdio, feed := streams(&out)
	look(x.exec(c, "tty", stdio, "sh", "-c", "read x; stty size"), feed, &out, "24 80")
	x.kill(c.Init())
	x.wait(c.Init())
	x.remove(c)
}

func setTerminal(t *testing.T, s *platform.Spec) {
	var spec specs.Spec
	if err := json.Unmarshal(s.OCI, &spec); err != nil {
		t.Fatal(err)
	}
	spec.Process.Terminal = true
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	s.OCI = data
}

func (x *executorTest) signal() {
	c := x.create(x.Spec(x.T, "sig", "sleep", "1000"))
	x.start(c.Init())
	x.is(c.Init().Signal(x.ctx, 1000, false), errdefs.ErrInvalidArgument, "signal 1000")
	if err := c.Init().Signal(x.ctx, 0, false); err != nil {
		x.Errorf("signal 0: %v", err)
	}
	x.kill(c.Init())
	if exit := x.wait(c.Init()); exit.Status != 137 {
		x.Errorf("exit %+v, want 137", exit)
	}
	x.is(c.Init().Signal(x.ctx, 9, false), errdefs.ErrNotFound, "signal after the end")
	x.remove(c)

	c = x.create(x.Spec(x.T, "sigall", "sleep", "1000"))
	x.start(c.Init())
	p := x.exec(c, "e", platform.IO{}, "sleep", "1000")
	if err := c.Init().Signal(x.ctx, 9, true); err != nil {
		x.Errorf("signal to all: %v", err)
	}
	if exit := x.wait(p); exit.Status != 137 {
		x.Errorf("an executed process ended with %+v, want 137", exit)
	}
	x.wait(c.Init())
	x.remove(c)
}

// exec starts a process in c.
func (x *executorTest) exec(c platform.Container, id string, stdio platform.IO, args ...string) platform.Process {
	x.Helper()
	p, err := c.Exec(x.ctx, platform.ProcessSpec{ID: id, OCI: x.process(args...), IO: stdio})
	if err != nil {
		x.Fatalf("Exec: %v", err)
	}
	x.start(p)
	return p
}

func (x *executorTest) waiters() {
	c := x.create(x.Spec(x.T, "wait", "sh", "-c", "exit 7"))
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			if exit, err := c.Init().Wait(x.ctx); err != nil || exit.Status != 7 {
				x.Errorf("Wait = %+v, %v", exit, err)
			}
		})
	}
	ctx, cancel := context.WithCancel(x.ctx)
	cancel()
	if _, err := c.Init().Wait(ctx); !errors.Is(err, context.Canceled) {
		x.Errorf("Wait with a cancelled context: %v", err)
	}
	x.start(c.Init())
	all.Wait()
	x.wait(c.Init())
	x.remove(c)
}

func (x *executorTest) delete() {
	c := x.create(x.Spec(x.T, "del", "sleep", "1000"))
	_, err := x.Executor.Create(x.ctx, x.Spec(x.T, "del", "true"))
	x.is(err, errdefs.ErrAlreadyExists, "Create of an id in use")
	x.start(c.Init())
	x.is(c.Delete(x.ctx), errdefs.ErrFailedPrecondition, "Delete of a running container")
	x.kill(c.Init())
	x.wait(c.Init())
	x.remove(c)
	x.remove(c) // again
	_, err = x.Executor.Adopt(x.ctx, "del")
	x.is(err, errdefs.ErrNotFound, "Adopt after Delete")

	c = x.create(x.Spec(x.T, "del", "sleep", "1000")) // the id is free, and one that never ran can go
	x.remove(c)
	if exit := x.wait(c.Init()); exit.Status != 137 {
		x.Errorf("init of a container deleted before its start ended with %+v, want 137", exit)
	}
}

func (x *executorTest) badSpecs() {
	for name, s := range map[string]platform.Spec{
		"no JSON":          {ID: "bad", Bundle: x.TempDir(), OCI: json.RawMessage("{")},
		"empty spec":       {ID: "bad", Bundle: x.TempDir(), OCI: json.RawMessage("{}")},
		"id with slashes":  x.Spec(x.T, "../bad", "true"),
		"empty id":         x.Spec(x.T, "", "true"),
		"no such program":  x.Spec(x.T, "bad", "there-is-no-such-program"),
		"no program named": x.Spec(x.T, "bad"),
	} {
		c, err := x.Executor.Create(x.ctx, s)
		if err == nil && x.LateStart && name == "no such program" {
			err = c.Init().Start(x.ctx)
			x.remove(c)
		}
		x.is(err, errdefs.ErrInvalidArgument, name)
	}
}
