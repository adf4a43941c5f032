package linux

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/configs/validate"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/linux/bringup"
	"github.com/slipwayd/slipway/platform/linux/child"
)

// own is what a container has in the place of libcontainer's when its init is a child of this process that runs a program of
// package bringup: a third of the work. libcontainer's record of such a container is made when something needs it.
type own struct {
	config *configs.Config
}

const (
	fifoName  = "exec.fifo"
	stateFile = "state.json" // libcontainer's
)

// prepareOwn is what libcontainer.Create does: it checks the configuration, and that the cgroup is nobody's.
func (c *container) prepareOwn(config *configs.Config) error {
	if err := validate.Validate(config); err != nil {
		return err
	}
	cg, err := c.e.hierarchies.newCgroup(config.Cgroups)
	if err != nil {
		return err
	}
	if cg.Exists() {
		pids, err := cg.GetAllPids()
		if len(pids) > 0 {
			return fmt.Errorf("container's cgroup is not empty: it has %d processes", len(pids))
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	if state, err := cg.GetFreezerState(); err != nil {
		return err
	} else if state == cgroups.Frozen {
		return errors.New("container's cgroup unexpectedly frozen")
	}
	c.own = &own{config: config}
	c.cgroupOnce.Do(func() { c.cgroup = cg })
	return nil
}

// readConfig is for an executor that adopts the container.
func (c *container) readConfig() (*configs.Config, error) {
	oci, err := readSpec(c.dir)
	if err != nil {
		return nil, err
	}
	s := platform.Spec{ID: c.id, Name: c.record.Name, Bundle: c.record.Bundle, OCI: oci, Options: c.record.Options}
	spec, err := c.e.parseSpec(s)
	if err != nil {
		return nil, err
	}
	return libcontainerConfig(spec, s)
}

// spawnOwn starts init up to where it waits for Start, and answers its pid.
func (c *container) spawnOwn(program *libcontainer.Process, streams *stdio) (_ int, err error) {
	fifo, err := c.makeFifo()
	if err != nil {
		return 0, err
	}
	defer fifo.Close()
	stdio, release, err := childStdio(program)
	if err != nil {
		return 0, err
	}
	defer release()
	cg, err := c.cgroups()
	if err != nil {
		return 0, err
	}
	p, err := bringup.Init(bringup.Container{
		ID: c.record.Name, Config: c.own.config, Process: program, Stdio: stdio, Fifo: fifo, Cgroups: cg.GetPaths(), Terminal: program.ConsoleSocket != nil,
	})
	if err != nil {
		return 0, err
	}
	defer p.Close()
	if p.Cgroup, err = makeCgroup2(cg); err != nil {
		return 0, err
	}
	defer p.Cgroup.Close() // nil is no harm
	init, err := p.Start(c.e.starter)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			_ = unix.Kill(init.Pid, unix.SIGKILL)
			_, _ = unix.Wait4(init.Pid, nil, 0, nil)
		}
	}()
	// From here on a later executor finds it. It cannot have run anything of the container's before.
	if err := recordStart(c.dir, "", init.Pid); err != nil {
		return 0, err
	}
	if !cgroups.IsCgroup2UnifiedMode() {
		if err := makeCgroups1(cg, c.own.config.Cgroups.Resources); err != nil { // init enters them itself
			return 0, fmt.Errorf("cannot make the cgroups: %w", err)
		}
	}
	if err := setResources(cg, c.own.config.Cgroups.Resources); err != nil {
		return 0, fmt.Errorf("cannot set the limits of the cgroup: %w", err)
	}
	if err := init.Continue(); err != nil {
		return 0, err
	}
	if err := init.Ready(); err != nil {
		if n, count := cg.OOMKillCount(); errors.Is(err, child.ErrDied) && count == nil && n > 0 {
			return 0, errors.New("container init was OOM-killed (memory limit too low?)")
		}
		return 0, err
	}
	if err := streams.given(init); err != nil {
		return 0, err
	}
	return init.Pid, nil
}

// makeCgroup2 makes a cgroup of version 2 and opens its directory. A host of version 1 may have that beside it, for nothing but to
// name processes by; then it may fail, and the answer is nil.
func makeCgroup2(cg cgroups.Manager) (*os.File, error) {
	if cgroups.IsCgroup2UnifiedMode() {
		if err := cg.Apply(-1); err != nil {
			return nil, fmt.Errorf("cannot make the cgroup: %w", err)
		}
		return os.Open(cg.Path(""))
	}
	dir := cg.Path("")
	if dir == "" || os.MkdirAll(dir, 0o755) != nil {
		return nil, nil
	}
	opened, err := os.Open(dir)
	if err != nil {
		return nil, nil
	}
	return opened, nil
}

// given takes over the terminal that a child of ours has made.
func (s *stdio) given(from *child.Process) error {
	if s.console == nil {
		return nil
	}
	if len(from.Given) != 1 {
		return fmt.Errorf("%d descriptors came in the place of a terminal: %w", len(from.Given), errdefs.ErrInternal)
	}
	s.console.Close()
	s.console, s.terminal = nil, from.Given[0]
	return nil
}

// execOwn starts one more process in the container, and answers its pid when it execs.
func (c *container) execOwn(program *libcontainer.Process, streams *stdio) (_ int, err error) {
	c.e.tracing.RLock()
	defer c.e.tracing.RUnlock()
	if c.traced() {
		return 0, errTraced
	}
	stdio, release, err := childStdio(program)
	if err != nil {
		return 0, err
	}
	defer release()
	c.init.mu.Lock()
	in := bringup.Joined{Pid: c.init.pid, Pidfd: c.init.pidfd}
	c.init.mu.Unlock()
	cg, err := c.cgroups()
	if err != nil {
		return 0, err
	}
	p, err := bringup.Exec(bringup.Container{
		ID: c.record.Name, Config: c.own.config, Process: program, Stdio: stdio, Cgroups: cg.GetPaths(), Terminal: program.ConsoleSocket != nil,
	}, in)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	started, err := c.startWithin(p, cg)
	if err != nil {
		return 0, err
	}
	if err = started.Continue(); err == nil {
		err = started.Ready()
	}
	if err == nil {
		err = streams.given(started)
	}
	if err != nil {
		_ = unix.Kill(started.Pid, unix.SIGKILL)
		_, _ = unix.Wait4(started.Pid, nil, 0, nil)
		return 0, err
	}
	return started.Pid, nil
}

// startWithin starts a process that enters the container's cgroups of version 1 itself, and is born in that of version 2. That may
// have become one that takes no processes, because the container put its own ones further down: then it goes where init is.
func (c *container) startWithin(p *bringup.Program, cg cgroups.Manager) (*child.Process, error) {
	start := func(dir string) (_ *child.Process, err error) {
		if p.Cgroup, err = os.Open(dir); err != nil {
			return nil, err
		}
		defer p.Cgroup.Close()
		return p.Start(c.e.starter)
	}
	if cg.Path("") == "" {
		return p.Start(c.e.starter)
	}
	started, err := start(cg.Path(""))
	if err == nil {
		return started, nil
	}
	of, parseErr := cgroups.ParseCgroupFile("/proc/" + strconv.Itoa(c.init.Pid()) + "/cgroup")
	if parseErr != nil {
		return nil, err
	}
	root := "/sys/fs/cgroup"
	if !cgroups.IsCgroup2UnifiedMode() {
		root += "/unified"
	}
	return start(filepath.Join(root, of[""]))
}

// makeFifo makes the fifo that init opens for writing when it is set up, whoever its user is.
func (c *container) makeFifo() (*os.File, error) {
	name := c.execFifo()
	if err := unix.Mkfifo(name, 0o622); err != nil {
		return nil, fmt.Errorf("cannot make the fifo for the start: %w", err)
	}
	if err := os.Chmod(name, 0o622); err != nil { // whatever the umask
		return nil, err
	}
	return os.OpenFile(name, unix.O_PATH, 0)
}

// childStdio answers the files that program has for its streams, or the null device. (The child could not open that: its cgroup
// may deny all devices at that moment.)
func childStdio(program *libcontainer.Process) (files [3]*os.File, release func(), err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return files, nil, err
	}
	for i, stream := range []any{program.Stdin, program.Stdout, program.Stderr} {
		f, ok := stream.(*os.File)
		if !ok {
			f = null
		}
		files[i] = f
	}
	return files, func() { null.Close() }, nil
}

// libcontainer answers libcontainer's idea of the container, and writes down its state where it has not.
func (c *container) libcontainer() (*libcontainer.Container, error) {
	c.lcMu.Lock()
	defer c.lcMu.Unlock()
	if c.lc != nil || c.own == nil {
		return c.lc, nil
	}
	root := filepath.Join(c.dir, stateDir)
	state, err := c.ownState()
	if err == nil {
		err = writeState(filepath.Join(root, c.record.Name, stateFile), state)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot write the state of container %q: %w", c.name(), err)
	}
	c.lc, err = libcontainer.Load(root, c.record.Name)
	return c.lc, err
}

// ownState is what libcontainer would have written down.
func (c *container) ownState() (*libcontainer.State, error) {
	cg, err := c.cgroups()
	if err != nil {
		return nil, err
	}
	began := readStart(c.dir, "")
	state := &libcontainer.State{
		BaseState: libcontainer.BaseState{
			ID: c.record.Name, InitProcessPid: began.Pid, InitProcessStartTime: began.StartTime, Created: time.Now().UTC(), Config: *c.own.config,
		},
		CgroupPaths: cg.GetPaths(), NamespacePaths: map[configs.NamespaceType]string{},
	}
	for _, ns := range configs.NamespaceTypes() {
		if configs.IsNamespaceSupported(ns) {
			state.NamespacePaths[ns] = (&configs.Namespace{Type: ns}).GetPath(began.Pid)
		}
	}
	return state, nil
}

func writeState(file string, state *libcontainer.State) error {
	data, err := json.Marshal(state)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o711); err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// adoptOwn takes over a container of the same kind.
func (c *container) adoptOwn() error {
	config, err := c.readConfig()
	if err != nil {
		return err
	}
	c.own, c.private = &own{config}, c.record.Private
	began := readStart(c.dir, "")
	if began.Pid == 0 { // Create was interrupted, and init has ended or does now
		c.init.closeWith(unknownExit())
		return nil
	}
	if cg, err := c.cgroups(); err == nil {
		state, err := cg.GetFreezerState()
		c.paused = err == nil && state == cgroups.Frozen
	}
	c.readNote()
	c.init.started = !c.awaitsStart(began.Pid)
	c.init.resume(began.Pid, began.StartTime)
	return c.adoptExecs()
}

// freezeCgroup pauses or resumes, whatever the kernel's state is: CRIU changes that too.
func (c *container) freezeCgroup(pause bool) error {
	cg, err := c.cgroups()
	if err != nil {
		return err
	}
	state := cgroups.Thawed
	if pause {
		state = cgroups.Frozen
	}
	if err := cg.Freeze(state); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return nil
}
