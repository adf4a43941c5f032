package linux

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/internal/mount"
	"github.com/slipwayd/slipway/platform"
)

// stateDir is the folder in a container's folder that is libcontainer's.
const stateDir = "state"

// container is a platform.Container, of one of three kinds: own, or libcontainer's (lc), or another runtime's (cli). One
// adopted from a Create that was interrupted may have none of them, and no record either.
type container struct {
	e       *Executor
	id, dir string
	private bool // its pid namespace is its own: processes end with init
	init    *process
	lcMu    sync.Mutex
	lc      *libcontainer.Container
	own     *own
	cli     *commandLine // in place of lc, when another runtime is asked for
	record  *record

	cgroupOnce sync.Once
	cgroup     cgroups.Manager
	cgroupErr  error

	updating sync.Mutex // one Pause, Resume or Update at a time
	deleting sync.Mutex // one Delete at a time

	mu        sync.Mutex
	execs     map[string]*process
	paused    bool
	deleted   bool
	oomKills  uint64 // those told
	onOOM     []func()
	oomCancel func()
}

var (
	_ platform.Pauser      = (*container)(nil)
	_ platform.Updater     = (*container)(nil)
	_ platform.OOMNotifier = (*container)(nil)
)

func newContainer(e *Executor, id, dir string) *container {
	c := &container{e: e, id: id, dir: dir, execs: map[string]*process{}}
	c.init = newProcess(c, "")
	return c
}

func (c *container) ID() string             { return c.id }
func (c *container) Init() platform.Process { return c.init }

// name is what users call the container; its id may carry more, such as a namespace.
func (c *container) name() string {
	if c.record == nil {
		return c.id
	}
	return c.record.Name
}

func (c *container) rootfs() string { return filepath.Join(c.record.Bundle, "rootfs") }

// cgroups answers a manager of the container's cgroup apart from libcontainer's, whose lock is held while a process starts.
func (c *container) cgroups() (cgroups.Manager, error) {
	c.cgroupOnce.Do(func() {
		if c.record == nil {
			c.cgroupErr = fmt.Errorf("container %q was never created: %w", c.name(), errdefs.ErrNotFound)
			return
		}
		var paths map[string]string // nil has the manager look for them, which costs it a dozen files of /proc
		if c.lc != nil && c.own == nil {
			if state, err := c.lc.State(); err == nil {
				paths = state.CgroupPaths
			}
		}
		c.cgroup, c.cgroupErr = manager.NewWithPaths(&c.record.Cgroup, paths)
	})
	return c.cgroup, c.cgroupErr
}

func (c *container) Processes() []platform.Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]platform.Process, 0, len(c.execs))
	for _, p := range c.execs {
		all = append(all, p)
	}
	return all
}

func (c *container) Exec(ctx context.Context, s platform.ProcessSpec) (platform.Process, error) {
	if !validID(s.ID) {
		return nil, fmt.Errorf("cannot execute process %q: not a valid id: %w", s.ID, errdefs.ErrInvalidArgument)
	}
	var spec specs.Process
	if err := json.Unmarshal(s.OCI, &spec); err != nil || len(spec.Args) == 0 {
		return nil, fmt.Errorf("cannot execute process %q: its spec is no runtime-spec process object with args: %w", s.ID, errdefs.ErrInvalidArgument)
	}
	if !c.init.running() {
		return nil, fmt.Errorf("cannot execute process %q: container %q is not running: %w", s.ID, c.name(), errdefs.ErrFailedPrecondition)
	}
	c.e.privileges.fit(&spec, c.e.log)
	program, err := libcontainerProcess(&spec)
	if err != nil {
		return nil, fmt.Errorf("cannot execute process %q: %w", s.ID, err)
	}
	program.ConsoleWidth, program.ConsoleHeight = consoleSize(&spec, s.IO)
	p := newProcess(c, s.ID)
	p.program, p.io = program, s.IO
	if c.cli != nil {
		spec.Terminal = s.IO.Terminal
		setConsoleSize(&spec, program)
		if p.spec, err = json.Marshal(&spec); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.execs[s.ID] != nil {
		return nil, fmt.Errorf("cannot execute process %q: %w", s.ID, errdefs.ErrAlreadyExists)
	}
	c.execs[s.ID] = p
	return p, nil
}

func (c *container) Pids(ctx context.Context) ([]int, error) {
	if c.init.hasEnded() && c.private {
		return nil, nil
	}
	cg, err := c.cgroups()
	if err != nil {
		return nil, err
	}
	pids, err := cg.GetAllPids()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot list the processes of container %q: %w", c.name(), err)
	}
	return pids, nil
}

func (c *container) Delete(ctx context.Context) error {
	if c.init.running() {
		return fmt.Errorf("cannot delete container %q: it runs; kill it first: %w", c.name(), errdefs.ErrFailedPrecondition)
	}
	c.deleting.Lock()
	defer c.deleting.Unlock()
	c.mu.Lock()
	deleted := c.deleted
	c.mu.Unlock()
	if deleted {
		return nil
	}
	if err := c.end(ctx); err != nil {
		return fmt.Errorf("cannot delete container %q: %w", c.name(), err)
	}
	if err := c.remove(); err != nil {
		return fmt.Errorf("cannot delete container %q: %w", c.name(), err)
	}
	return nil
}

// end kills what is left of a container whose init has ended or was never started, and waits for it.
func (c *container) end(ctx context.Context) error {
	if !c.init.hasEnded() {
		if err := c.init.kill(); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	if _, err := c.init.Wait(ctx); err != nil {
		return err
	}
	for _, p := range c.Processes() {
		if p.Pid() == 0 {
			continue
		}
		if err := p.(*process).kill(); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		if _, err := p.Wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// remove takes away all that Create made, and is repeatable: the folder goes last.
func (c *container) remove() error {
	c.stopOOM()
	if c.record != nil && (c.lc == nil && c.own == nil || !c.private || c.init.Pid() == 0) {
		if err := c.killAll(); err != nil {
			return err
		}
	}
	if err := c.destroy(); err != nil {
		return err
	}
	if c.record != nil && c.record.Mounted {
		if err := c.unmount(); err != nil {
			return fmt.Errorf("cannot unmount the root file system: %w", err)
		}
	}
	if err := removeFolder(c.dir); err != nil {
		return fmt.Errorf("cannot remove its state: %w", err)
	}
	c.release()
	c.mu.Lock()
	c.deleted = true
	c.mu.Unlock()
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	if c.e.containers[c.id] == c {
		delete(c.e.containers, c.id)
	}
	return nil
}

// unmount takes the root file system out of sight at once. Its last user is a descriptor that is closed in the background:
// the kernel ends an overlay by writing out all of the file system below it, other containers' data too, which nobody who
// deletes a container waits for, unless many have been deleted. A crash closes the descriptor as well. The layer's directories
// may be removed meanwhile, or mounted anew: that makes the kernel log that they are in use, and no more.
func (c *container) unmount() error {
	user, err := unix.Open(c.rootfs(), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return mount.Unmount(c.rootfs())
	}
	err = mount.Unmount(c.rootfs())
	c.e.unmounting <- struct{}{}
	c.e.background.Go(func() {
		_ = unix.Close(user)
		<-c.e.unmounting
	})
	return err
}

// destroy removes the cgroup and libcontainer's state, and runs the poststop hooks.
func (c *container) destroy() error {
	if c.cli != nil && c.record != nil {
		defer c.e.reaper.begin()()
		if err := c.cli.delete(); err != nil {
			return err
		}
	}
	if c.lc == nil || c.own != nil {
		if c.record == nil {
			return nil
		}
		cg, err := c.cgroups()
		if err != nil {
			return err
		}
		return cg.Destroy()
	}
	defer c.e.reaper.begin()()
	if c.init.adopted {
		_, _ = c.lc.Status() // libcontainer thinks of an adopted init as created and would signal its pid, which may be another's by now
	}
	err := c.lc.Destroy()
	if err == nil {
		return nil
	}
	if _, stat := os.Stat(filepath.Join(c.dir, stateDir, c.record.Name)); errors.Is(stat, fs.ErrNotExist) {
		// All is gone: a poststop hook failed, which runtime-spec ("Lifecycle", 13) wants told and not to stop anything.
		c.e.log.Warn("a poststop hook failed", "id", c.id, "error", err)
		return nil
	}
	return err
}

// killAll kills every process in the cgroup, those that fork meanwhile too, and waits until they are gone.
func (c *container) killAll() error {
	cg, err := c.cgroups()
	if err != nil {
		return err
	}
	if !cg.Exists() {
		return nil
	}
	if cgroups.IsCgroup2UnifiedMode() && cgroups.WriteFile(cg.Path(""), "cgroup.kill", "1") == nil {
		return c.awaitEmpty(cg)
	}
	if err := cg.Freeze(cgroups.Frozen); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.e.log.Debug("cannot freeze a container to kill it", "id", c.id, "error", err)
	}
	pids, err := cg.GetAllPids()
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	if thawErr := cg.Freeze(cgroups.Thawed); err == nil && !errors.Is(thawErr, fs.ErrNotExist) {
		err = thawErr
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot kill all processes of container %q: %w", c.name(), err)
	}
	return c.awaitEmpty(cg)
}

// awaitEmpty waits for killed processes: the kernel has no notice of a v1 cgroup's last process that is not a second hierarchy.
func (c *container) awaitEmpty(cg cgroups.Manager) error {
	for wait := time.Millisecond; wait < 4*time.Second; wait *= 2 {
		pids, err := cg.GetAllPids()
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(wait)
	}
	return fmt.Errorf("processes of container %q do not die: %w", c.name(), errdefs.ErrUnavailable)
}

// release closes what this executor holds of the container.
func (c *container) release() {
	c.stopOOM()
	c.init.release()
	for _, p := range c.Processes() {
		p.(*process).release()
	}
}
