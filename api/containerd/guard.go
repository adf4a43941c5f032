package containerd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync/atomic"

	events "github.com/containerd/containerd/api/services/events/v1"
	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// guard is the one place where errors become gRPC statuses and panics become errors.
type guard struct {
	log      *slog.Logger
	ready    atomic.Bool
	stopping context.Context // ends calls that wait; of the server, not of a call
	stop     context.CancelFunc
}

func newGuard(log *slog.Logger) *guard {
	g := &guard{log: log}
	g.stopping, g.stop = context.WithCancel(context.Background())
	return g
}

// endless are the methods that may wait for ever for something to happen.
var endless = map[string]bool{
	"/" + tasks.Tasks_ServiceDesc.ServiceName + "/Wait":        true,
	"/" + events.Events_ServiceDesc.ServiceName + "/Subscribe": true,
	healthpb.Health_Watch_FullMethodName:                       true,
}

// whileServing is a call's context that also ends when the server stops, if the call is an endless one.
func (g *guard) whileServing(ctx context.Context, method string) (context.Context, func()) {
	if !endless[method] {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	release := context.AfterFunc(g.stopping, cancel)
	return ctx, func() {
		release()
		cancel()
	}
}

// servedStream is a stream whose context is that of whileServing.
type servedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s servedStream) Context() context.Context { return s.ctx }

func (g *guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer func() { err = g.translate(info.FullMethod, recover(), err) }()
	if err := g.admit(info.FullMethod); err != nil {
		return nil, err
	}
	ctx, done := g.whileServing(ctx, info.FullMethod)
	defer done()
	return next(ctx, req)
}

func (g *guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer func() { err = g.translate(info.FullMethod, recover(), err) }()
	if err := g.admit(info.FullMethod); err != nil {
		return err
	}
	ctx, done := g.whileServing(ss.Context(), info.FullMethod)
	defer done()
	return next(srv, servedStream{ss, ctx})
}

func (g *guard) admit(method string) error {
	if g.ready.Load() || strings.HasPrefix(method, "/"+healthpb.Health_ServiceDesc.ServiceName+"/") {
		return nil
	}
	return fmt.Errorf("daemon is starting, try again in a moment: %w", errdefs.ErrUnavailable)
}

func (g *guard) translate(method string, panicked any, err error) error {
	if panicked != nil {
		g.log.Error("call panicked", "method", method, "panic", panicked, "stack", string(debug.Stack()))
		err = fmt.Errorf("%s failed on a fault of the daemon, see its log: %w", method, errdefs.ErrInternal)
	}
	if errors.Is(err, context.Canceled) && endless[method] && g.stopping.Err() != nil {
		err = fmt.Errorf("daemon is stopping, ask the next one: %w", errdefs.ErrUnavailable)
	}
	if err != nil {
		g.log.Debug("call failed", "method", method, "err", err)
	}
	// Code and message only: of the details, which are the kinds of a joined error, clients make a line each.
	st, _ := status.FromError(errgrpc.ToGRPC(err))
	return status.Error(st.Code(), st.Message())
}
