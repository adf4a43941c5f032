package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/api/events"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/shim/stdio"
	"github.com/slipwayd/slipway/storage"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// maxSpec bounds a bundle's config.json in bytes.
const maxSpec = 16 << 20

func (s *Server) publish(c *container, topic string, event proto.Message) {
	s.conf.Publisher.Publish(c.ns, topic, time.Now(), event)
}

// Create makes a container from its bundle up to where Start executes its program.
func (s *Server) Create(ctx context.Context, r *task.CreateTaskRequest) (*task.CreateTaskResponse, error) {
	ns, err := s.namespace(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkID("id", r.ID); err != nil {
		return nil, err
	}
	c := &container{ns: ns, id: r.ID, bundle: r.Bundle, restored: r.Checkpoint != "", execs: map[string]*process{}, settled: make(chan struct{})}
	if err := s.reserve(c); err != nil {
		return nil, err
	}
	defer s.settle(c)
	spec, err := readSpec(r.Bundle)
	if err != nil {
		return nil, err
	}
	options, err := decodeOptions(r.Options)
	if err != nil {
		return nil, err
	}
	p := &process{c: c, done: make(chan struct{})}
	p.uris = stdio.Streams{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal}
	if p.streams, err = stdio.Open(ctx, s.streamConfig(p)); err != nil {
		return nil, err
	}
	c.platform, err = s.conf.Executor.Create(ctx, platform.Spec{
		ID: c.key(), Name: c.id, Bundle: r.Bundle, OCI: spec, Rootfs: mounts(r.Rootfs), IO: p.streams.IO(), Options: options, Checkpoint: r.Checkpoint,
	})
	if err != nil {
		p.streams.Finish()
		return nil, err
	}
	p.platform, c.init = c.platform.Init(), p
	c.mu.Lock()
	s.save(c)
	pid := p.pidNow()
	c.mu.Unlock()
	s.publish(c, "/tasks/create", &events.TaskCreate{
		ContainerID: c.id, Bundle: c.bundle, Rootfs: r.Rootfs, Pid: pid, Checkpoint: r.Checkpoint,
		IO: &events.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	})
	s.keep(p)
	s.watch(p)
	s.watchOOM(c)
	return &task.CreateTaskResponse{Pid: pid}, nil
}

// reserve takes the id of a container that is about to be created, and settle makes it known or gives the id back.
func (s *Server) reserve(c *container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return fmt.Errorf("the shim is shutting down: %w", errdefs.ErrUnavailable)
	}
	if _, ok := s.tasks[c.key()]; ok {
		return fmt.Errorf("task %q in namespace %q: %w", c.id, c.ns, errdefs.ErrAlreadyExists)
	}
	s.tasks[c.key()] = c
	delete(s.pending, c.key())
	return nil
}

func (s *Server) settle(c *container) {
	if c.init == nil {
		s.mu.Lock()
		delete(s.tasks, c.key())
		s.mu.Unlock()
	}
	close(c.settled)
}

func readSpec(bundle string) ([]byte, error) {
	path := filepath.Join(bundle, "config.json")
	st, err := os.Stat(path)
	if err == nil && st.Size() > maxSpec {
		return nil, fmt.Errorf("%s has %d bytes, more than %d: %w", path, st.Size(), maxSpec, errdefs.ErrInvalidArgument)
	}
	spec, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("bundle has no config.json: %w: %w", err, errdefs.ErrNotFound)
	}
	return spec, err
}

func mounts(all []*types.Mount) []storage.Mount {
	var list []storage.Mount
	for _, m := range all {
		list = append(list, storage.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return list
}

// Start executes init's program, or an executed process.
func (s *Server) Start(ctx context.Context, r *task.StartRequest) (*task.StartResponse, error) {
	p, err := s.process(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	p.order.Lock()
	defer p.order.Unlock()
	p.c.mu.Lock()
	ok := p.status == created && !p.begun && p.platform != nil
	p.c.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("cannot start %s: it was started already: %w", p.name(), errdefs.ErrFailedPrecondition)
	}
	held, err := p.streams.Hold()
	if err != nil {
		return nil, fmt.Errorf("cannot hold standard input of %s: %w", p.name(), err)
	}
	if err := p.platform.Start(ctx); err != nil {
		if p.id != "" {
			s.abandon(p)
		}
		return nil, err
	}
	p.c.mu.Lock()
	p.status, p.begun = running, true
	p.stdinClosed = p.stdinClosed || !held
	s.save(p.c)
	pid := p.pidNow()
	p.c.mu.Unlock()
	s.publishStart(p, pid)
	if p.id != "" || p.c.restored {
		s.keep(p) // its terminal is made only now
	}
	if p.id != "" {
		s.watch(p)
	}
	return &task.StartResponse{Pid: pid}, nil
}

func (s *Server) publishStart(p *process, pid uint32) {
	if p.id == "" {
		s.publish(p.c, "/tasks/start", &events.TaskStart{ContainerID: p.c.id, Pid: pid})
		return
	}
	s.publish(p.c, "/tasks/exec-started", &events.TaskExecStarted{ContainerID: p.c.id, ExecID: p.id, Pid: pid})
}

// abandon is the end of an executed process that could not be started: nothing is told but to those who wait.
func (s *Server) abandon(p *process) {
	p.streams.Finish()
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.status, p.exit = stopped, platform.Exit{Status: 255, At: time.Now()}
	s.save(p.c)
	close(p.done)
}

// Delete forgets an executed process, or a container with everything in it. One that runs must be killed first; one that was
// never started is killed here.
func (s *Server) Delete(ctx context.Context, r *task.DeleteRequest) (*task.DeleteResponse, error) {
	p, err := s.process(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	c := p.c
	c.life.Lock()
	defer c.life.Unlock()
	if again, err := s.process(ctx, r.ID, r.ExecID); err != nil || again != p {
		return nil, fmt.Errorf("%s: %w", p.name(), errdefs.ErrNotFound)
	}
	c.mu.Lock()
	was := p.status
	c.mu.Unlock()
	if was == running {
		return nil, fmt.Errorf("cannot delete %s: it runs; kill it first: %w", p.name(), errdefs.ErrFailedPrecondition)
	}
	if p.id != "" {
		return s.deleteExec(ctx, p)
	}
	if was == created && p.platform != nil {
		if err := p.platform.Signal(ctx, 9, true); err != nil && !errdefs.IsNotFound(err) {
			return nil, err
		}
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return s.deleteContainer(ctx, c)
}

func (s *Server) deleteContainer(ctx context.Context, c *container) (*task.DeleteResponse, error) {
	if c.platform != nil {
		if err := c.platform.Delete(ctx); err != nil && !errdefs.IsNotFound(err) {
			return nil, err
		}
	}
	if err := os.Remove(s.recordPath(c.key())); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot remove the record of %s: %w", c.key(), err)
	}
	c.mu.Lock()
	resp := deleteResponse(c.init)
	for _, e := range c.execs { // prepared and never started
		if e.status == created {
			e.status, e.exit = stopped, platform.Exit{Status: 255, At: time.Now()}
			defer e.streams.Finish()
			close(e.done)
		}
	}
	c.mu.Unlock()
	s.mu.Lock()
	delete(s.tasks, c.key())
	s.mu.Unlock()
	s.publish(c, "/tasks/delete", &events.TaskDelete{
		ContainerID: c.id, Pid: resp.Pid, ExitStatus: resp.ExitStatus, ExitedAt: resp.ExitedAt,
	})
	return resp, nil
}

func (s *Server) deleteExec(ctx context.Context, p *process) (*task.DeleteResponse, error) {
	p.order.Lock() // not while it starts
	defer p.order.Unlock()
	p.c.mu.Lock()
	was := p.status
	p.c.mu.Unlock()
	if was == running {
		return nil, fmt.Errorf("cannot delete %s: it runs; kill it first: %w", p.name(), errdefs.ErrFailedPrecondition)
	}
	if p.platform != nil {
		if err := p.platform.Delete(ctx); err != nil && !errdefs.IsNotFound(err) {
			return nil, err
		}
	}
	if was == created {
		s.abandon(p)
	}
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	delete(p.c.execs, p.id)
	s.save(p.c)
	return deleteResponse(p), nil
}

// deleteResponse needs c.mu.
func deleteResponse(p *process) *task.DeleteResponse {
	return &task.DeleteResponse{Pid: p.pidNow(), ExitStatus: p.exit.Status, ExitedAt: timestamppb.New(p.exit.At)}
}

// Exec prepares one more process in a container; Start runs it.
func (s *Server) Exec(ctx context.Context, r *task.ExecProcessRequest) (*emptypb.Empty, error) {
	if r.ExecID == "" {
		return nil, fmt.Errorf("cannot execute a process without an exec id: %w", errdefs.ErrInvalidArgument)
	}
	if err := checkID("exec id", r.ExecID); err != nil {
		return nil, err
	}
	c, err := s.find(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	c.life.Lock()
	defer c.life.Unlock()
	c.mu.Lock()
	exists, ended := c.execs[r.ExecID] != nil, c.init.status == stopped || c.platform == nil
	c.mu.Unlock()
	switch {
	case exists:
		return nil, fmt.Errorf("process %q of task %q: %w", r.ExecID, r.ID, errdefs.ErrAlreadyExists)
	case ended:
		return nil, fmt.Errorf("cannot execute %q: task %q has ended: %w", r.ExecID, r.ID, errdefs.ErrFailedPrecondition)
	}
	p := &process{c: c, id: r.ExecID, done: make(chan struct{})}
	p.uris = stdio.Streams{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal}
	if p.streams, err = stdio.Open(ctx, s.streamConfig(p)); err != nil {
		return nil, err
	}
	p.platform, err = c.platform.Exec(ctx, platform.ProcessSpec{ID: p.id, OCI: r.Spec.GetValue(), IO: p.streams.IO()})
	if err != nil {
		p.streams.Finish()
		return nil, err
	}
	c.mu.Lock()
	c.execs[p.id] = p
	s.save(c)
	c.mu.Unlock()
	s.publish(c, "/tasks/exec-added", &events.TaskExecAdded{ContainerID: c.id, ExecID: p.id})
	return &emptypb.Empty{}, nil
}
