package linux

import (
	"errors"
	"path/filepath"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/platform"
)

// adopt builds a container from what its folder says. A Create that was interrupted gives one whose init has ended with
// an unknown status and that can only be deleted.
func (e *Executor) adopt(id, dir string) (*container, error) {
	c := newContainer(e, id, dir)
	c.init.adopted = true
	var err error
	if c.record, err = readRecord(dir); err != nil {
		return nil, err
	}
	if c.record != nil && c.record.Command != nil {
		c.adoptCommand()
		return c, c.adoptExecs()
	}
	if c.record != nil && c.record.Own {
		return c, c.adoptOwn()
	}
	if c.record != nil {
		c.lc, err = libcontainer.Load(filepath.Join(dir, stateDir), c.record.Name)
	}
	if c.lc == nil {
		if err != nil && !errors.Is(err, libcontainer.ErrNotExist) {
			e.log.Warn("cannot read the state of a container; it can only be deleted", "id", id, "error", err)
		}
		c.lc = nil
		c.init.closeWith(unknownExit())
		return c, nil
	}
	config := c.lc.Config()
	c.private = config.Namespaces.IsPrivate(configs.NEWPID)
	status, err := c.lc.Status()
	if err != nil {
		return nil, err
	}
	c.paused = status == libcontainer.Paused
	c.readNote()
	state, err := c.lc.State()
	if err != nil {
		return nil, err
	}
	c.init.started = !c.awaitsStart(state.InitProcessPid)
	c.init.resume(state.InitProcessPid, state.InitProcessStartTime)
	return c, c.adoptExecs()
}

// adoptCommand takes over a container that another runtime runs, or did not come to run.
func (c *container) adoptCommand() {
	c.cli, c.private = c.record.Command, c.record.Private
	c.cli.dir, c.cli.name, c.cli.bundle = c.dir, c.record.Name, c.record.Bundle
	defer c.e.reaper.begin()()
	status := c.cli.status()
	c.paused = status == "paused"
	c.init.started = status != string(specs.StateCreated)
	began := readStart(c.dir, "")
	c.init.resume(began.Pid, began.StartTime)
}

func (c *container) adoptExecs() error {
	execs, err := readExecs(c.dir)
	if err != nil {
		return err
	}
	for id, r := range execs {
		p := newProcess(c, id)
		p.adopted, p.started = true, true
		c.execs[id] = p
		p.resume(r.Pid, r.StartTime)
	}
	return nil
}

// resume watches the process that an earlier executor started, or finds out how it ended.
func (p *process) resume(pid int, began uint64) {
	p.pid = pid
	if exit, ok := readExit(p.c.dir, p.id); ok {
		p.closeWith(exit)
		return
	}
	if pid <= 0 {
		p.closeWith(unknownExit())
		return
	}
	pidfd, err := openPidfd(pid)
	if err != nil {
		p.closeWith(unknownExit())
		return
	}
	// Only now does the pid mean one process for certain, and is it the one that was recorded?
	if now, err := startTime(pid); err != nil || now != began {
		pidfd.Close()
		p.closeWith(unknownExit())
		return
	}
	p.pidfd = pidfd
	p.c.e.watch(p, pid, pidfd)
}

// closeWith is ended for a process of which nothing is left to do.
func (p *process) closeWith(exit platform.Exit) {
	p.exit = exit
	close(p.done)
}
