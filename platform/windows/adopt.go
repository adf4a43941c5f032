package windows

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/platform"
)

func unknownExit() platform.Exit {
	return platform.Exit{Status: statusUnknown, At: time.Now(), Unknown: true}
}

// notRunning is what the service says of what has ended.
func notRunning(err error) bool { return errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) }

// adopt builds a container from what its folder says and the service knows. A Create that was interrupted gives one whose init has ended
// with an unknown status and that can only be deleted.
func (e *Executor) adopt(ctx context.Context, id, dir string) (_ *container, err error) {
	c := newContainer(e, id, dir)
	var r record
	switch found, err := read(filepath.Join(dir, recordFile), &r); {
	case err != nil:
		return nil, err
	case !found:
		c.init.closeWith(unknownExit())
		return c, nil
	}
	c.record = &r
	system, err := e.host.OpenSystem(ctx, r.System)
	switch {
	case err == nil:
		c.watchSystem(system)
	case !errdefs.IsNotFound(err):
		return nil, fmt.Errorf("cannot open compute system %s: %w", r.System, err)
	}
	defer func() {
		if err != nil {
			c.release()
		}
	}()
	if err := c.adoptInit(ctx); err != nil {
		return nil, err
	}
	execs, err := readProcesses(dir)
	if err != nil {
		return nil, err
	}
	for id, r := range execs {
		p := newProcess(c, id)
		c.execs[id] = p
		p.resume(ctx, r)
	}
	return c, nil
}

// adoptInit finds out whether init has ended, runs or is still to be started.
func (c *container) adoptInit(ctx context.Context) error {
	var r processRecord
	started, err := read(filepath.Join(c.dir, initFile("")), &r)
	if err != nil {
		return err
	}
	if started {
		c.init.resume(ctx, r)
	} else {
		state, err := c.state(ctx)
		if err != nil {
			return err
		}
		if state == "Created" {
			return c.prepareInit(platform.IO{})
		}
		c.init.closeWith(unknownExit()) // gone, or its executor died in the middle of Start
	}
	if !c.init.hasEnded() {
		state, err := c.state(ctx)
		c.paused = state == "Paused"
		return err
	}
	c.e.background.Go(func() { // for a predecessor that did not come to it; Delete waits for it
		if err := c.endSystem(c.e.life, false); err != nil && c.e.life.Err() == nil {
			c.e.log.Error("what init left behind goes on running", "id", c.id, "error", err)
		}
	})
	return nil
}

// state is the service's word for the system's; "" when it is gone.
func (c *container) state(ctx context.Context) (string, error) {
	if c.system == nil {
		return "", nil
	}
	data, err := c.system.Properties(ctx)
	if notRunning(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot tell the state of compute system %s: %w", c.record.System, err)
	}
	var properties struct{ State string }
	if err := json.Unmarshal(data, &properties); err != nil {
		return "", fmt.Errorf("cannot read the properties of compute system %s: %w", c.record.System, err)
	}
	return properties.State, nil
}

// resume watches the process that an earlier executor started, or finds out how it ended.
func (p *process) resume(ctx context.Context, r processRecord) {
	p.pid, p.started, p.terminal = r.Pid, true, r.Terminal
	if exit, ok := readExit(p.c.dir, p.id); ok {
		p.closeWith(exit)
		return
	}
	if p.c.system == nil || p.c.madeAfter(ctx, r) {
		p.closeWith(unknownExit())
		return
	}
	handle, err := p.c.system.OpenProcess(ctx, r.Pid)
	if err != nil {
		if !notRunning(err) {
			p.c.e.log.Warn("cannot open a process; its end is unknown", "id", p.c.id, "exec", p.id, "error", err)
		}
		p.closeWith(unknownExit())
		return
	}
	p.watch(handle)
}

// madeAfter says whether the process of this pid was made after the record of ours was written, and is another one therefore.
func (c *container) madeAfter(ctx context.Context, r processRecord) bool {
	list, err := c.processList(ctx)
	if err != nil {
		return false // OpenProcess will say
	}
	for _, p := range list {
		if p.ProcessID == r.Pid {
			return p.CreateTimestamp.After(r.At)
		}
	}
	return false
}
