package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/shim/stdio"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// container is one task: its init and the processes executed beside it.
type container struct {
	ns, id, bundle string
	platform       platform.Container // nil when it vanished while no shim was there
	restored       bool               // goes on from a checkpoint, from its Start on
	settled        chan struct{}      // closed when Create has succeeded, or failed and left init nil

	life sync.Mutex // one Create, Delete or Exec at a time

	mu     sync.Mutex
	init   *process
	execs  map[string]*process
	paused bool
	oom    bool // the kernel killed something in it for memory

	written int // bytes of its record
}

func (c *container) key() string { return key(c.ns, c.id) }

// living answers the executed processes that have not ended.
func (c *container) living() []*process {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*process
	for _, p := range c.execs {
		if p.status == running {
			all = append(all, p)
		}
	}
	return all
}

type phase uint8

const (
	created phase = iota
	running
	stopped
)

// process is init or an executed process. Fields below order belong to c.mu.
type process struct {
	c       *container
	id      string // "" for init
	uris    stdio.Streams
	streams *stdio.Set
	done    chan struct{} // closed when the end is recorded and told, or the process deleted unstarted

	order sync.Mutex // held from before a start until it is told, so that no exit is told earlier

	platform    platform.Process
	status      phase
	begun       bool
	stdinClosed bool
	exit        platform.Exit
	lastPid     uint32
}

// pidNow needs c.mu.
func (p *process) pidNow() uint32 {
	if p.platform != nil {
		if pid := p.platform.Pid(); pid > 0 {
			p.lastPid = uint32(pid)
		}
	}
	return p.lastPid
}

func (p *process) pid() uint32 {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	return p.pidNow()
}

// name is for messages.
func (p *process) name() string {
	if p.id == "" {
		return fmt.Sprintf("task %q", p.c.id)
	}
	return fmt.Sprintf("process %q of task %q", p.id, p.c.id)
}

// watch waits for p's end in a goroutine that Close awaits.
func (s *Server) watch(p *process) {
	s.wait.Go(func() {
		exit, err := p.platform.Wait(s.ctx)
		if s.ctx.Err() != nil {
			return
		}
		if err != nil {
			s.conf.Log.Error("cannot learn how a process ended", "container", p.c.key(), "exec", p.id, "error", err)
			exit = unknownExit()
		}
		s.ended(p, exit)
	})
}

// ended records and tells that p has ended. Of a container's processes init is told last, and takes the others with it.
func (s *Server) ended(p *process, exit platform.Exit) {
	if p.id == "" && !s.endExecs(p.c) {
		return
	}
	p.streams.Finish()
	p.order.Lock()
	defer p.order.Unlock()
	p.c.mu.Lock()
	pid := p.pidNow()
	p.status, p.exit = stopped, exit
	s.save(p.c)
	p.c.mu.Unlock()
	s.publish(p.c, "/tasks/exit", &events.TaskExit{
		ContainerID: p.c.id, ID: p.processID(), Pid: pid, ExitStatus: exit.Status, ExitedAt: timestamppb.New(exit.At),
	})
	close(p.done)
}

// endExecs kills what was executed in a container whose init has ended, where the kernel did not, and waits for it. False
// when the server is closing.
func (s *Server) endExecs(c *container) bool {
	c.mu.Lock()
	execs := slices.Collect(maps.Values(c.execs))
	c.mu.Unlock()
	for _, e := range execs { // those in the middle of their start
		e.order.Lock()
		//lint:ignore SA2001 only to wait
		e.order.Unlock()
	}
	for _, e := range c.living() {
		if e.platform == nil {
			continue
		}
		if err := e.platform.Signal(s.ctx, 9, false); err != nil && !errdefs.IsNotFound(err) {
			s.conf.Log.Warn("cannot kill a process whose container's init has ended", "container", c.key(), "exec", e.id, "error", err)
		}
	}
	for _, e := range c.living() {
		select {
		case <-e.done:
		case <-s.ctx.Done():
			return false
		}
	}
	return true
}

// processID is the id that events and answers use: containerd gives init its container's.
func (p *process) processID() string {
	if p.id == "" {
		return p.c.id
	}
	return p.id
}

// running fails unless p runs.
func (p *process) running() error {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	switch p.status {
	case running:
		if p.platform != nil {
			return nil
		}
		fallthrough
	case stopped:
		return fmt.Errorf("%s has ended: %w", p.name(), errdefs.ErrNotFound)
	}
	return fmt.Errorf("%s is not started: %w", p.name(), errdefs.ErrFailedPrecondition)
}

// adoptAll takes over what the records tell, and removes containers without a record.
func (s *Server) adoptAll(ctx context.Context) error {
	records, err := s.records()
	if err != nil {
		return err
	}
	ids, err := s.conf.Executor.List(ctx)
	if err != nil {
		return fmt.Errorf("cannot list containers: %w", err)
	}
	for _, id := range ids {
		if _, ok := records[id]; !ok {
			s.discard(ctx, id)
		}
	}
	for _, r := range records {
		s.adopt(ctx, r)
	}
	return nil
}

// discard removes a container whose creation was never answered.
func (s *Server) discard(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	c, err := s.conf.Executor.Adopt(ctx, id)
	if err == nil {
		err = destroy(ctx, c)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		s.conf.Log.Error("cannot remove a container whose creation was cut off", "container", id, "error", err)
	}
}

// destroy kills a container and removes it.
func destroy(ctx context.Context, c platform.Container) error {
	err := c.Init().Signal(ctx, 9, true)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err == nil {
		if _, err := c.Init().Wait(ctx); err != nil {
			return err
		}
	}
	return c.Delete(ctx)
}

// adopt goes on with one container of a dead shim.
func (s *Server) adopt(ctx context.Context, r record) {
	c := &container{ns: r.Namespace, id: r.ID, bundle: r.Bundle, paused: r.Paused, oom: r.OOMKilled, written: maxRecord, execs: map[string]*process{}, settled: make(chan struct{})}
	close(c.settled)
	var err error
	if c.platform, err = s.conf.Executor.Adopt(ctx, c.key()); err != nil {
		c.platform = nil
		s.conf.Log.Warn("container is gone", "container", c.key(), "error", err)
	}
	processes := map[string]platform.Process{}
	if c.platform != nil {
		processes[""] = c.platform.Init()
		for _, p := range c.platform.Processes() {
			processes[p.ID()] = p
		}
	}
	c.init = s.adoptProcess(c, "", r.Init, processes[""])
	for id, pr := range r.Execs {
		if processes[id] == nil && pr.Exit == nil && !pr.Started {
			continue // it was only prepared, and its client saw the call fail
		}
		c.execs[id] = s.adoptProcess(c, id, pr, processes[id])
	}
	s.mu.Lock()
	s.tasks[c.key()] = c
	s.mu.Unlock()
	c.mu.Lock()
	s.save(c) // with what was found
	c.mu.Unlock()
	for _, p := range c.execs {
		s.resume(p)
	}
	s.resume(c.init)
	s.watchOOM(c)
}

func (s *Server) adoptProcess(c *container, id string, r processRecord, pp platform.Process) *process {
	p := &process{c: c, id: id, uris: r.Streams, platform: pp, stdinClosed: r.StdinClosed, lastPid: r.Pid, done: make(chan struct{})}
	p.begun = r.Started
	if r.Exit != nil {
		p.status, p.exit = stopped, *r.Exit
		p.streams = stdio.Attach(stdio.Config{Log: s.conf.Log}, true)
		close(p.done)
		return p
	}
	// A shim that died between starting a process and recording that: the executor knows better.
	if pp != nil && pp.Started() && !p.begun {
		p.begun = true
		s.publishStart(p, uint32(pp.Pid()))
	}
	if p.begun {
		p.status = running
	}
	p.streams = s.takeBack(p, pp)
	return p
}

// resume waits for an adopted process.
func (s *Server) resume(p *process) {
	switch {
	case p.status == stopped:
	case p.platform == nil:
		s.wait.Go(func() { s.ended(p, unknownExit()) })
	case p.id == "" || p.status == running:
		s.watch(p)
	}
}

func (s *Server) streamConfig(p *process) stdio.Config {
	return stdio.Config{Streams: p.uris, Dir: p.c.bundle, Namespace: p.c.ns, ID: p.c.id, ExecID: p.id, Log: s.conf.Log}
}

// watchOOM tells when the kernel killed something for memory, where the executor can notice.
func (s *Server) watchOOM(c *container) {
	n, ok := c.platform.(platform.OOMNotifier)
	if !ok {
		return
	}
	err := n.OnOOM(func() {
		c.mu.Lock()
		if !c.oom {
			c.oom = true
			s.save(c)
		}
		c.mu.Unlock()
		s.publish(c, "/tasks/oom", &events.TaskOOM{ContainerID: c.id})
	})
	if err != nil && !errors.Is(err, errdefs.ErrNotImplemented) {
		s.conf.Log.Warn("cannot watch a container for lack of memory", "container", c.key(), "error", err)
	}
}
