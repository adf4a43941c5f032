package testsuite

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/slipwayd/slipway/platform"
)

// FakeExecutor is a platform.Executor without an operating system: "containers" are values and "processes" goroutines that
// know a few programs (see fakeProcess.run). It needs no root and leaves nothing, so that a shim can be tested anywhere.
type FakeExecutor struct {
	world *fakeWorld
}

// fakeWorld is what outlives an executor: the containers of one pretended state directory.
type fakeWorld struct {
	mu         sync.Mutex
	pid        int
	containers map[string]*FakeContainer
}

// NewFakeExecutor answers an executor over an empty state directory.
func NewFakeExecutor() *FakeExecutor {
	return &FakeExecutor{world: &fakeWorld{pid: 1000, containers: map[string]*FakeContainer{}}}
}

// Crash pretends that the executor's process was killed, and answers the one started after it: nothing in the containers
// noticed, and Adopt finds them.
func (e *FakeExecutor) Crash() *FakeExecutor { return &FakeExecutor{world: e.world} }

func (e *FakeExecutor) Close() error { return nil }

func (e *FakeExecutor) Create(ctx context.Context, s platform.Spec) (platform.Container, error) {
	var spec specs.Spec
	if err := json.Unmarshal(s.OCI, &spec); err != nil {
		return nil, fmt.Errorf("cannot read the spec of container %q: %v: %w", s.ID, err, errdefs.ErrInvalidArgument)
	}
	if s.ID == "" || strings.Contains(s.ID, "/") || spec.Process == nil || len(spec.Process.Args) == 0 {
		return nil, fmt.Errorf("cannot create container %q: it needs an id without slashes and process.args: %w", s.ID, errdefs.ErrInvalidArgument)
	}
	if err := known(spec.Process.Args); err != nil {
		return nil, fmt.Errorf("cannot create container %q: %w", s.ID, err)
	}
	e.world.mu.Lock()
	defer e.world.mu.Unlock()
	if e.world.containers[s.ID] != nil {
		return nil, fmt.Errorf("cannot create container %q: %w", s.ID, errdefs.ErrAlreadyExists)
	}
	c := &FakeContainer{world: e.world, spec: s, execs: map[string]*fakeProcess{}}
	c.init = newFakeProcess(c, "", spec.Process, s.IO)
	c.init.pid = e.world.nextPid()
	e.world.containers[s.ID] = c
	return c, nil
}

func (e *FakeExecutor) Adopt(ctx context.Context, id string) (platform.Container, error) {
	e.world.mu.Lock()
	defer e.world.mu.Unlock()
	if c := e.world.containers[id]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("cannot adopt container %q: %w", id, errdefs.ErrNotFound)
}

func (e *FakeExecutor) List(ctx context.Context) ([]string, error) {
	e.world.mu.Lock()
	defer e.world.mu.Unlock()
	ids := make([]string, 0, len(e.world.containers))
	for id := range e.world.containers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}

// nextPid needs world.mu.
func (w *fakeWorld) nextPid() int { w.pid++; return w.pid }

// FakeContainer is a container of a FakeExecutor, with what a test may want to look at or to make happen.
type FakeContainer struct {
	world *fakeWorld
	spec  platform.Spec
	init  *fakeProcess

	mu        sync.Mutex
	execs     map[string]*fakeProcess
	paused    bool
	resources json.RawMessage
	onOOM     []func()
}

// Spec is what the container was created from.
func (c *FakeContainer) Spec() platform.Spec { return c.spec }

// Resources is what Update was last called with.
func (c *FakeContainer) Resources() json.RawMessage {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.resources
}

// OOM pretends that the kernel killed something in the container for memory.
func (c *FakeContainer) OOM() {
	c.mu.Lock()
	calls := slices.Clone(c.onOOM)
	c.mu.Unlock()
	for _, f := range calls {
		f()
	}
}

func (c *FakeContainer) ID() string             { return c.spec.ID }
func (c *FakeContainer) Init() platform.Process { return c.init }

func (c *FakeContainer) Exec(ctx context.Context, s platform.ProcessSpec) (platform.Process, error) {
	var spec specs.Process
	if err := json.Unmarshal(s.OCI, &spec); err != nil || len(spec.Args) == 0 {
		return nil, fmt.Errorf("cannot read the spec of process %q: no process object with args: %w", s.ID, errdefs.ErrInvalidArgument)
	}
	if s.ID == "" {
		return nil, fmt.Errorf("cannot execute a process without an id: %w", errdefs.ErrInvalidArgument)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.execs[s.ID] != nil:
		return nil, fmt.Errorf("cannot execute process %q: %w", s.ID, errdefs.ErrAlreadyExists)
	case !c.init.running():
		return nil, fmt.Errorf("cannot execute process %q: container %q is not running: %w", s.ID, c.ID(), errdefs.ErrFailedPrecondition)
	}
	p := newFakeProcess(c, s.ID, &spec, s.IO)
	c.execs[s.ID] = p
	return p, nil
}

func (c *FakeContainer) Processes() []platform.Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []platform.Process
	for _, p := range c.execs {
		all = append(all, p)
	}
	return all
}

// living is init and the executed processes that exist now.
func (c *FakeContainer) living() []*fakeProcess {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*fakeProcess
	for _, p := range append([]*fakeProcess{c.init}, mapValues(c.execs)...) {
		if p.Pid() != 0 && !p.ended() {
			all = append(all, p)
		}
	}
	return all
}

func mapValues(m map[string]*fakeProcess) []*fakeProcess {
	var all []*fakeProcess
	for _, p := range m {
		all = append(all, p)
	}
	return all
}

func (c *FakeContainer) Pids(ctx context.Context) ([]int, error) {
	var pids []int
	for _, p := range c.living() {
		pids = append(pids, p.Pid())
	}
	return pids, nil
}

func (c *FakeContainer) Stats(ctx context.Context) (platform.Stats, error) {
	n := uint64(len(c.living()))
	return platform.Stats{Metrics: &cgroup1.Metrics{
		Pids:   &cgroup1.PidsStat{Current: n},
		CPU:    &cgroup1.CPUStat{Usage: &cgroup1.CPUUsage{Total: 1}},
		Memory: &cgroup1.MemoryStat{Usage: &cgroup1.MemoryEntry{Usage: 4096 * n}},
	}}, nil
}

func (c *FakeContainer) Pause(ctx context.Context) error  { return c.setPaused(true) }
func (c *FakeContainer) Resume(ctx context.Context) error { return c.setPaused(false) }

func (c *FakeContainer) setPaused(want bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.init.ended() || c.paused == want {
		return fmt.Errorf("container %q is stopped, or is so already: %w", c.ID(), errdefs.ErrFailedPrecondition)
	}
	c.paused = want
	return nil
}

func (c *FakeContainer) Update(ctx context.Context, resources json.RawMessage, annotations map[string]string) error {
	if !json.Valid(resources) {
		return fmt.Errorf("cannot update container %q: the resources are no JSON: %w", c.ID(), errdefs.ErrInvalidArgument)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.init.ended() {
		return fmt.Errorf("cannot update container %q: it has ended: %w", c.ID(), errdefs.ErrFailedPrecondition)
	}
	c.resources = slices.Clone(resources)
	return nil
}

func (c *FakeContainer) OnOOM(f func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onOOM = append(c.onOOM, f)
	return nil
}

func (c *FakeContainer) Delete(ctx context.Context) error {
	if c.init.Started() && !c.init.ended() {
		return fmt.Errorf("cannot delete container %q: it runs; kill it first: %w", c.ID(), errdefs.ErrFailedPrecondition)
	}
	for _, p := range c.living() { // init, when it was never started
		p.kill(9)
	}
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	if c.world.containers[c.ID()] == c {
		delete(c.world.containers, c.ID())
	}
	return nil
}
