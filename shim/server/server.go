// Package server is the task service of a shim: containerd's task API v2 and v3 (their messages are the same) over ttrpc, for
// the containers of one platform.Executor in any number of namespaces.
//
// It imports package platform and the stdio beside it, ttrpc and protobuf messages; never gRPC's own server, and nothing of the daemon: the
// binary it is linked into is executed once more for every container.
//
// What a crash leaves: the containers, which run on, and one record for each in the state directory. New adopts those; a
// container without a record was being created when the shim died and is removed; exits that happened meanwhile are told.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"sync"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/slipwayd/slipway/platform"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// NamespaceHeader carries the namespace of a request, in ttrpc metadata.
const NamespaceHeader = "containerd-namespace-ttrpc"

// ServiceV2 and ServiceV3 are the names of the task service; Extras that of what a shim of ours can besides.
const (
	ServiceV2 = "containerd.task.v2.Task"
	ServiceV3 = "containerd.task.v3.Task"
	Extras    = "slipway.shim.v1.Shim"
)

// Publisher takes the events of containers, in order. It does not wait for anybody.
type Publisher interface {
	Publish(namespace, topic string, at time.Time, event proto.Message)
}

// Config is what a Server is made of; the Executor is closed by Close.
type Config struct {
	Executor  platform.Executor
	State     string // directory of the records; made when it is not there
	Publisher Publisher
	Log       *slog.Logger
	// Namespace is that of requests which name none: containerd's own calls do not always. Empty: such requests fail.
	Namespace string
	// Keeper has terminals outlive this server; nil: they end with it.
	Keeper Keeper
	// Shutdown is called, once, when a client asked the shim to end and no container is left. Nil: such requests do nothing.
	Shutdown func()
}

// Server serves the tasks of one executor.
type Server struct {
	conf Config

	mu       sync.Mutex
	tasks    map[string]*container
	pending  map[string]bool // being created, or announced by Reserve
	stopping bool

	ctx    context.Context // of the waiters
	cancel context.CancelFunc
	wait   sync.WaitGroup
}

// New adopts what an earlier server of the same state directory left, and removes what that one had not finished creating.
func New(ctx context.Context, c Config) (*Server, error) {
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make state directory of the shim: %w", err)
	}
	s := &Server{conf: c, tasks: map[string]*container{}, pending: map[string]bool{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.adoptAll(ctx); err != nil {
		s.cancel()
		return nil, err
	}
	return s, nil
}

// Close stops waiting for processes and leaves them running.
func (s *Server) Close() error {
	s.cancel()
	s.wait.Wait()
	return s.conf.Executor.Close()
}

// Register puts the services into t.
func (s *Server) Register(t *ttrpc.Server) {
	desc := &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"State": method(s.State), "Create": whole(s.Create), "Start": whole(s.Start), "Delete": whole(s.Delete),
		"Pids": method(s.Pids), "Pause": whole(s.Pause), "Resume": whole(s.Resume), "Checkpoint": whole(s.Checkpoint),
		"Kill": whole(s.Kill), "Exec": whole(s.Exec), "ResizePty": method(s.ResizePty), "CloseIO": whole(s.CloseIO),
		"Update": whole(s.Update), "Wait": method(s.Wait), "Stats": method(s.Stats), "Connect": method(s.Connect),
		"Shutdown": whole(s.Shutdown),
	}}
	t.RegisterService(ServiceV2, desc)
	t.RegisterService(ServiceV3, desc)
	t.RegisterService(Extras, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"ReopenLog": method(s.ReopenLog), "Reserve": method(s.Reserve), "KeepAll": method(s.KeepAll), "OOMKilled": method(s.OOMKilled),
		"Tap": method(s.Tap),
	}})
}

// method adapts one RPC and gives its errors their codes. Its context ends with the connection.
func method[Q, R any](f func(context.Context, *Q) (*R, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		req := new(Q)
		if err := unmarshal(req); err != nil {
			return nil, err
		}
		resp, err := f(ctx, req)
		if err != nil {
			// Code and message only: of the details, which are the kinds of a joined error, the other side makes a line each.
			st, _ := grpcstatus.FromError(errgrpc.ToGRPC(err))
			return nil, grpcstatus.Error(st.Code(), st.Message())
		}
		return resp, nil
	}
}

// whole is method for what must not stop half-way because the client died; its deadline still counts.
func whole[Q, R any](f func(context.Context, *Q) (*R, error)) ttrpc.Method {
	return method(func(ctx context.Context, req *Q) (*R, error) {
		free := context.WithoutCancel(ctx)
		if end, ok := ctx.Deadline(); ok {
			var cancel context.CancelFunc
			free, cancel = context.WithDeadline(free, end)
			defer cancel()
		}
		return f(free, req)
	})
}

// identifier is containerd's rule for names of namespaces, containers and processes.
var identifier = regexp.MustCompile(`^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$`)

func checkID(what, id string) error {
	if len(id) > 76 || !identifier.MatchString(id) {
		return fmt.Errorf("%s %q must be 1 to 76 letters and digits with single . _ or - between: %w", what, id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// key names a container for the executor. "+" is in no identifier, and in every file name.
func key(namespace, id string) string { return namespace + "+" + id }

// namespace is the one a request is for.
func (s *Server) namespace(ctx context.Context) (string, error) {
	ns, _ := ttrpc.GetMetadataValue(ctx, NamespaceHeader)
	if ns == "" {
		ns = s.conf.Namespace
	}
	if ns == "" {
		return "", fmt.Errorf("the request names no namespace in its header %s: %w", NamespaceHeader, errdefs.ErrFailedPrecondition)
	}
	return ns, checkID("namespace", ns)
}

// find is the container that a request is about. One that is being created is waited for: a daemon that was started anew
// must not take it for unknown.
func (s *Server) find(ctx context.Context, id string) (*container, error) {
	ns, err := s.namespace(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	c := s.tasks[key(ns, id)]
	s.mu.Unlock()
	if c != nil {
		select {
		case <-c.settled:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if c.init != nil {
			return c, nil
		}
	}
	return nil, fmt.Errorf("task %q in namespace %q: %w", id, ns, errdefs.ErrNotFound)
}

// process is the process that a request is about; execID "" is init.
func (s *Server) process(ctx context.Context, id, execID string) (*process, error) {
	c, err := s.find(ctx, id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if execID == "" {
		return c.init, nil
	}
	if p := c.execs[execID]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("process %q of task %q: %w", execID, id, errdefs.ErrNotFound)
}

// Connect tells pids. Without an id it asks whether the shim is there.
func (s *Server) Connect(ctx context.Context, r *task.ConnectRequest) (*task.ConnectResponse, error) {
	resp := &task.ConnectResponse{ShimPid: uint32(os.Getpid()), Version: "slipway"}
	if r.ID == "" {
		return resp, nil
	}
	p, err := s.process(ctx, r.ID, "")
	if err != nil {
		return nil, err
	}
	resp.TaskPid = p.pid()
	return resp, nil
}

// Shutdown ends the shim if it has nothing left to do. containerd asks after each Delete.
func (s *Server) Shutdown(ctx context.Context, r *task.ShutdownRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	if ns, err := s.namespace(ctx); err == nil && r.ID != "" {
		delete(s.pending, key(ns, r.ID))
	}
	end := s.conf.Shutdown != nil && !s.stopping && len(s.tasks)+len(s.pending) == 0
	s.stopping = s.stopping || end
	s.mu.Unlock()
	if end {
		s.conf.Shutdown()
	}
	return &emptypb.Empty{}, nil
}

// Reserve announces a Create, so that a Shutdown before it does not end the shim.
func (s *Server) Reserve(ctx context.Context, r *task.StateRequest) (*emptypb.Empty, error) {
	ns, err := s.namespace(ctx)
	if err = errors.Join(err, checkID("id", r.ID)); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return nil, fmt.Errorf("the shim is shutting down: %w", errdefs.ErrUnavailable)
	}
	if s.tasks[key(ns, r.ID)] == nil {
		s.pending[key(ns, r.ID)] = true
	}
	return &emptypb.Empty{}, nil
}

// ReopenLog opens a process's log file by its name again, after rotation.
func (s *Server) ReopenLog(ctx context.Context, r *task.StateRequest) (*emptypb.Empty, error) {
	p, err := s.process(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, p.streams.Reopen()
}

// Tap lets a client read along with a process's output through fifos of its own, see stdio.Set.Tap.
func (s *Server) Tap(ctx context.Context, r *task.ExecProcessRequest) (*emptypb.Empty, error) {
	p, err := s.process(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, p.streams.Tap(r.Stdout, r.Stderr)
}
