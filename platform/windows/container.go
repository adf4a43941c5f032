package windows

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/windows/document"
	"github.com/slipwayd/slipway/platform/windows/hcs"
)

// container is a platform.Container. One adopted from a Create that was interrupted may have no record.
type container struct {
	e       *Executor
	id, dir string
	init    *process
	record  *record
	system  hcs.System    // nil when it is gone, or never was
	gone    chan struct{} // closed when the system has ended

	updating sync.Mutex // one Pause, Resume or Update at a time
	deleting sync.Mutex // one Delete at a time

	mu      sync.Mutex
	execs   map[string]*process
	paused  bool
	ending  bool // the system is being ended by us
	deleted bool
}

var (
	_ platform.Pauser  = (*container)(nil)
	_ platform.Updater = (*container)(nil)
)

func newContainer(e *Executor, id, dir string) *container {
	c := &container{e: e, id: id, dir: dir, execs: map[string]*process{}, gone: make(chan struct{})}
	c.init = newProcess(c, "")
	return c
}

func (c *container) ID() string             { return c.id }
func (c *container) Init() platform.Process { return c.init }

// name is what users call the container.
func (c *container) name() string {
	if c.record == nil {
		return c.id
	}
	return c.record.Name
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
	if err := json.Unmarshal(s.OCI, &spec); err != nil {
		return nil, fmt.Errorf("cannot execute process %q: its spec is no runtime-spec process object: %w", s.ID, errdefs.ErrInvalidArgument)
	}
	params, err := document.Process(&spec)
	if err != nil {
		return nil, fmt.Errorf("cannot execute process %q: %w", s.ID, err)
	}
	if !c.init.running() {
		return nil, fmt.Errorf("cannot execute process %q: container %q is not running: %w", s.ID, c.name(), errdefs.ErrFailedPrecondition)
	}
	p := newProcess(c, s.ID)
	p.prepare(params, &spec, s.IO)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.execs[s.ID] != nil {
		return nil, fmt.Errorf("cannot execute process %q: %w", s.ID, errdefs.ErrAlreadyExists)
	}
	c.execs[s.ID] = p
	return p, nil
}

// running answers the system while init runs.
func (c *container) running() (hcs.System, error) {
	if c.system == nil || !c.init.running() {
		return nil, fmt.Errorf("container %q does not run: %w", c.name(), errdefs.ErrFailedPrecondition)
	}
	return c.system, nil
}

func (c *container) Pause(ctx context.Context) error  { return c.setPaused(ctx, true) }
func (c *container) Resume(ctx context.Context) error { return c.setPaused(ctx, false) }

func (c *container) setPaused(ctx context.Context, want bool) error {
	c.updating.Lock()
	defer c.updating.Unlock()
	verb := "resume"
	if want {
		verb = "pause"
	}
	system, err := c.running()
	if err != nil {
		return fmt.Errorf("cannot %s: %w", verb, err)
	}
	if c.isPaused() == want {
		return fmt.Errorf("cannot %s container %q: it is so already, or was not: %w", verb, c.name(), errdefs.ErrFailedPrecondition)
	}
	if want {
		err = system.Pause(ctx)
	} else {
		err = system.Resume(ctx)
	}
	if err != nil {
		return fmt.Errorf("cannot %s container %q: %w", verb, c.name(), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = want
	return nil
}

func (c *container) isPaused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paused
}

func (c *container) Update(ctx context.Context, resources json.RawMessage, annotations map[string]string) error {
	c.updating.Lock()
	defer c.updating.Unlock()
	requests, err := document.Update(c.e.host, resources)
	if err != nil {
		return fmt.Errorf("cannot update container %q: %w", c.name(), err)
	}
	if c.system == nil || c.init.hasEnded() {
		return fmt.Errorf("cannot update container %q: it has ended: %w", c.name(), errdefs.ErrFailedPrecondition)
	}
	if c.record.Schema != 2 {
		return fmt.Errorf("cannot update container %q: the limits of a container with Hyper-V isolation or an endpoint list are fixed: %w", c.name(), errdefs.ErrNotImplemented)
	}
	for _, r := range requests {
		if err := c.system.Modify(ctx, r); err != nil {
			return fmt.Errorf("cannot update container %q: %w", c.name(), err)
		}
	}
	return nil
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
	err := c.endSystem(ctx, false)
	if err == nil {
		c.init.neverRan()
		err = c.remove(ctx)
	}
	if err != nil {
		return fmt.Errorf("cannot delete container %q: %w", c.name(), err)
	}
	return nil
}

// watchSystem makes system the container's, and sees to it that its end is noticed.
func (c *container) watchSystem(system hcs.System) {
	c.system = system
	c.e.background.Go(func() {
		if err := system.Wait(c.e.life); err != nil {
			if c.e.life.Err() != nil {
				return // the executor was closed
			}
			c.e.log.Warn("cannot tell how a compute system ended", "id", c.id, "error", err)
		}
		close(c.gone)
	})
}

// stuckAfter is when a system that was terminated and does not end is given up.
const stuckAfter = 30 * time.Second

// endSystem ends what is left of the container, gently when there may be something to write out, and waits. It may be repeated.
func (c *container) endSystem(ctx context.Context, gently bool) error {
	if c.system == nil {
		return nil
	}
	c.mu.Lock()
	c.ending = true
	c.mu.Unlock()
	if gently {
		if err := c.system.Shutdown(ctx); err == nil && c.awaitGone(ctx, c.e.grace) {
			return nil
		}
	}
	select {
	case <-c.gone:
		return nil
	default:
	}
	if err := c.system.Terminate(ctx); err != nil {
		return fmt.Errorf("cannot terminate what runs in container %q: %w", c.name(), err)
	}
	if !c.awaitGone(ctx, stuckAfter) {
		return fmt.Errorf("what runs in container %q was terminated and does not end: %w", c.name(), errdefs.ErrUnavailable)
	}
	return nil
}

func (c *container) awaitGone(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-c.gone:
		return true
	case <-timer.C:
	case <-ctx.Done():
	case <-c.e.life.Done():
	}
	return false
}

// remove takes away all that Create made but the system, and is repeatable: the folder goes last.
func (c *container) remove(ctx context.Context) error {
	if c.record != nil && c.record.Guarded {
		if err := c.e.host.RemoveGuard(ctx, c.record.System); err != nil {
			return fmt.Errorf("cannot remove its credential guard: %w", err)
		}
	}
	if c.record != nil && c.record.Scratch != "" {
		if err := c.e.host.Unmount(ctx, c.record.Scratch); err != nil {
			return fmt.Errorf("cannot unmount the layers on %s: %w", c.record.Scratch, err)
		}
	}
	if err := os.RemoveAll(c.dir); err != nil {
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

// release closes what this executor holds of the container.
func (c *container) release() {
	for _, p := range append(c.Processes(), c.init) {
		p.(*process).release()
	}
	if c.system != nil {
		c.system.Close()
	}
}
