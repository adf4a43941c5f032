// Package containerd serves containerd's gRPC API (github.com/containerd/containerd/api) over an engine.
//
// It owns the translation between the wire and engine calls, one file for each service, and nothing else: no state, no
// decisions. It never imports metadata's database, drivers or shims. A crash leaves nothing of it.
package containerd

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/slipwayd/slipway/engine"
)

// maxMessage is containerd's limit on a message, both ways, in bytes.
const maxMessage = 16 << 20

// Options of a Server.
type Options struct {
	Log     *slog.Logger
	Version string // as Version and Introspection answer it
	// Revision of the source, may be empty.
	Revision string
}

// Server is a gRPC server with all services registered. Until Ready it is NOT_SERVING to health checks, and all other calls
// are Unavailable.
type Server struct {
	*grpc.Server
	health *health.Server
	guard  *guard
}

// NewServer makes a server over eng; the caller Serves listeners with it and Stops it.
func NewServer(eng *engine.Engine, o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	g := &guard{log: o.Log}
	s := &Server{
		guard: g,
		Server: grpc.NewServer(
			grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
			grpc.UnaryInterceptor(g.unary), grpc.StreamInterceptor(g.stream),
		),
		health: health.NewServer(),
	}
	for _, register := range services {
		register(s.Server, eng, o)
	}
	healthpb.RegisterHealthServer(s.Server, s.health)
	s.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	return s
}

// Ready lets calls in and tells health checks that the engine has started.
func (s *Server) Ready() {
	s.guard.ready.Store(true)
	s.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
}

// guard is the one place where errors become gRPC statuses and panics become errors.
type guard struct {
	log   *slog.Logger
	ready atomic.Bool
}

func (g *guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer func() { err = g.translate(info.FullMethod, recover(), err) }()
	if err := g.admit(info.FullMethod); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (g *guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer func() { err = g.translate(info.FullMethod, recover(), err) }()
	if err := g.admit(info.FullMethod); err != nil {
		return err
	}
	return next(srv, ss)
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
	if err != nil {
		g.log.Debug("call failed", "method", method, "err", err)
	}
	return errgrpc.ToGRPC(err)
}
