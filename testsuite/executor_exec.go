package testsuite

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	windows "github.com/Microsoft/hcsshim/cmd/containerd-shim-runhcs-v1/stats"
	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/platform"
)

// shortExecs end while they are being started, some of them.
func (x *executorTest) shortExecs() {
	c := x.create(x.Spec(x.T, "short", "sleep", "1000"))
	x.start(c.Init())
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() {
			for j := range 6 {
				p, err := c.Exec(x.ctx, platform.ProcessSpec{ID: fmt.Sprintf("e%d-%d", i, j), OCI: x.process("sh", "-c", fmt.Sprintf("exit %d", j))})
				if err == nil {
					err = p.Start(x.ctx)
				}
				if err != nil {
					x.Errorf("Exec and Start: %v", err)
					return
				}
				if exit, err := p.Wait(x.ctx); err != nil || exit.Status != uint32(j) || exit.Unknown {
					x.Errorf("Wait = %+v, %v; want %d", exit, err, j)
				}
				if err := p.Delete(x.ctx); err != nil {
					x.Errorf("Delete: %v", err)
				}
			}
		})
	}
	all.Wait()
	x.kill(c.Init())
	x.wait(c.Init())
	x.remove(c)
}

func (x *executorTest) execErrors() {
	c := x.create(x.Spec(x.T, "execerr", "sleep", "1000"))
	spec := platform.ProcessSpec{ID: "a", OCI: x.process("true")}
	_, err := c.Exec(x.ctx, spec)
	x.is(err, errdefs.ErrFailedPrecondition, "Exec before Start")
	x.start(c.Init())
	_, err = c.Exec(x.ctx, platform.ProcessSpec{OCI: x.process("true")})
	x.is(err, errdefs.ErrInvalidArgument, "Exec without an id")
	_, err = c.Exec(x.ctx, platform.ProcessSpec{ID: "a", OCI: json.RawMessage(`[]`)})
	x.is(err, errdefs.ErrInvalidArgument, "Exec of no process")
	p, err := c.Exec(x.ctx, spec)
	if err != nil {
		x.Fatal(err)
	}
	_, err = c.Exec(x.ctx, spec)
	x.is(err, errdefs.ErrAlreadyExists, "Exec of an id in use")
	if err := p.Delete(x.ctx); err != nil {
		x.Errorf("Delete of a process that was never started: %v", err)
	}
	p, err = c.Exec(x.ctx, platform.ProcessSpec{ID: "a", OCI: x.process("there-is-no-such-program")})
	if err != nil {
		x.Fatal(err)
	}
	x.is(p.Start(x.ctx), errdefs.ErrInvalidArgument, "start of a program that is not there")
	x.is(p.Signal(x.ctx, 9, false), errdefs.ErrNotFound, "signal to a process that did not start")
	if err := p.Delete(x.ctx); err != nil {
		x.Errorf("Delete of a process that did not start: %v", err)
	}
	x.kill(c.Init())
	x.wait(c.Init())
	_, err = c.Exec(x.ctx, spec)
	x.is(err, errdefs.ErrFailedPrecondition, "Exec after the end")
	x.remove(c)
}

func (x *executorTest) execEndsWithInit() {
	c := x.create(x.Spec(x.T, "execend", "sleep", "1000"))
	x.start(c.Init())
	p := x.exec(c, "e", platform.IO{}, "sleep", "1000")
	pids, err := c.Pids(x.ctx)
	if err != nil || !slices.Contains(pids, c.Init().Pid()) || !slices.Contains(pids, p.Pid()) {
		x.Errorf("Pids = %v, %v; want %d and %d among them", pids, err, c.Init().Pid(), p.Pid())
	}
	x.kill(c.Init())
	x.wait(c.Init())
	if exit := x.wait(p); exit.Status != 137 {
		x.Errorf("the executed process ended with %+v, want 137", exit)
	}
	x.remove(c)
}

func (x *executorTest) pause() {
	c := x.create(x.Spec(x.T, "pause", "sleep", "1000"))
	x.start(c.Init())
	pauser, ok := c.(platform.Pauser)
	if !ok {
		x.Fatal("the container cannot be paused")
	}
	x.is(pauser.Resume(x.ctx), errdefs.ErrFailedPrecondition, "Resume of what is not paused")
	if x.NoPause {
		x.is(pauser.Pause(x.ctx), errdefs.ErrNotImplemented, "Pause")
		x.kill(c.Init())
		x.wait(c.Init())
		x.remove(c)
		return
	}
	if err := pauser.Pause(x.ctx); err != nil {
		x.Fatal(err)
	}
	x.is(pauser.Pause(x.ctx), errdefs.ErrFailedPrecondition, "Pause a second time")
	p, err := c.Exec(x.ctx, platform.ProcessSpec{ID: "e", OCI: x.process("true")})
	if err == nil {
		err = p.Start(x.ctx)
	}
	x.is(err, errdefs.ErrFailedPrecondition, "exec in a paused container")
	if err := pauser.Resume(x.ctx); err != nil {
		x.Fatal(err)
	}
	if err := pauser.Pause(x.ctx); err != nil {
		x.Fatal(err)
	}
	x.kill(c.Init()) // ends a paused container too
	x.wait(c.Init())
	x.is(pauser.Pause(x.ctx), errdefs.ErrFailedPrecondition, "Pause after the end")
	x.remove(c)
}

func (x *executorTest) update() {
	c := x.create(x.Spec(x.T, "update", "sleep", "1000"))
	x.start(c.Init())
	updater, ok := c.(platform.Updater)
	if !ok {
		x.Fatal("the container cannot be updated")
	}
	err := updater.Update(x.ctx, json.RawMessage(`{"memory":{"limit":536870912}}`), nil)
	if x.FixedLimits {
		x.is(err, errdefs.ErrNotImplemented, "Update")
	} else if err != nil {
		x.Errorf("Update: %v", err)
	}
	x.is(updater.Update(x.ctx, json.RawMessage(`{"memory":`), nil), errdefs.ErrInvalidArgument, "Update with no JSON")
	x.kill(c.Init())
	x.wait(c.Init())
	x.is(updater.Update(x.ctx, json.RawMessage(`{}`), nil), errdefs.ErrFailedPrecondition, "Update after the end")
	x.remove(c)
}

func (x *executorTest) stats() {
	c := x.create(x.Spec(x.T, "stats", "sleep", "1000"))
	x.start(c.Init())
	stats, err := c.Stats(x.ctx)
	if err != nil {
		x.Fatal(err)
	}
	var pids, memory uint64
	switch m := stats.Metrics.(type) {
	case *cgroup1.Metrics:
		pids, memory = m.Pids.Current, m.Memory.Usage.Usage
	case *cgroup2.Metrics:
		pids, memory = m.Pids.Current, m.Memory.Usage
	case *windows.Statistics: // counts no processes
		pids, memory = 1, m.GetWindows().GetMemory().GetMemoryUsageCommitBytes()
	default:
		x.Errorf("Stats is a %T", m)
	}
	if pids == 0 || memory == 0 {
		x.Errorf("Stats: %d processes, %d bytes; want some of both", pids, memory)
	}
	x.kill(c.Init())
	x.wait(c.Init())
	x.remove(c)
}

func (x *executorTest) together() {
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for j := range 3 {
				c, err := x.Executor.Create(x.ctx, x.Spec(x.T, fmt.Sprintf("t%d-%d", i, j), "sh", "-c", fmt.Sprintf("exit %d", i)))
				if err != nil {
					x.Errorf("Create: %v", err)
					return
				}
				if err := c.Init().Start(x.ctx); err != nil {
					x.Errorf("Start: %v", err)
				}
				if exit, err := c.Init().Wait(x.ctx); err != nil || exit.Status != uint32(i) {
					x.Errorf("Wait = %+v, %v; want %d", exit, err, i)
				}
				if err := c.Delete(x.ctx); err != nil {
					x.Errorf("Delete: %v", err)
				}
			}
		})
	}
	all.Wait()
}

func (x *executorTest) execs() {
	c := x.create(x.Spec(x.T, "exec", "sleep", "1000"))
	x.start(c.Init())
	var out bytes.Buffer
	p := x.exec(c, "hello", platform.IO{Stdout: &out}, "echo", "hello")
	if exit := x.wait(p); exit.Status != 0 || out.String() != "hello\n" {
		x.Errorf("exit %+v, output %q", exit, out.String())
	}
	if p.ID() != "hello" || p.Pid() == 0 || p.Pid() == c.Init().Pid() {
		x.Errorf("process %q has pid %d", p.ID(), p.Pid())
	}
	x.is(p.Start(x.ctx), errdefs.ErrFailedPrecondition, "Start a second time")
	if exit := x.wait(x.exec(c, "nine", platform.IO{}, "sh", "-c", "exit 9")); exit.Status != 9 {
		x.Errorf("exit %+v, want 9", exit)
	}
	long := x.exec(c, "long", platform.IO{}, "sleep", "1000")
	x.is(long.Delete(x.ctx), errdefs.ErrFailedPrecondition, "Delete of a running process")
	if n := len(c.Processes()); n != 3 {
		x.Errorf("%d processes, want 3", n)
	}
	x.kill(long)
	if exit := x.wait(long); exit.Status != 137 {
		x.Errorf("exit %+v, want 137", exit)
	}
	for _, p := range c.Processes() {
		if err := p.Delete(x.ctx); err != nil {
			x.Errorf("Delete of process %q: %v", p.ID(), err)
		}
	}
	if n := len(c.Processes()); n != 0 {
		x.Errorf("%d processes after they were deleted", n)
	}
	x.is(c.Init().Signal(x.ctx, 0, false), nil, "init after its execs")
	x.kill(c.Init())
	x.wait(c.Init())
	x.remove(c)
}
