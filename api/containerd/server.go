// Package containerd serves containerd's gRPC API (github.com/containerd/containerd/api) over an engine.
//
// It owns the translation between the wire and engine calls, one file for each service, and nothing else: no state, no
// decisions. It never imports metadata's database, drivers or shims. A crash leaves nothing of it.
package containerd

import (
	"log/slog"

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
	g := newGuard(o.Log)
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

// GracefulStop refuses new calls and waits for those under way, but for the ones that wait for something to happen: they
// end at once with Unavailable, and their clients ask again.
func (s *Server) GracefulStop() {
	s.guard.stop()
	s.Server.GracefulStop()
}
