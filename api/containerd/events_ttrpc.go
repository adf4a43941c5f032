package containerd

import (
	"context"
	"fmt"
	"net"

	ttrpcevents "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/slipwayd/slipway/engine"
)

// TTRPCServer is what listens beside the gRPC socket, for shims: they forward the events of tasks there.
type TTRPCServer struct{ server *ttrpc.Server }

// NewTTRPCServer makes a server over eng; the caller Serves a listener with it and Closes it.
func NewTTRPCServer(eng *engine.Engine) (*TTRPCServer, error) {
	server, err := ttrpc.NewServer()
	if err != nil {
		return nil, fmt.Errorf("cannot make the ttrpc server: %w", err)
	}
	ttrpcevents.RegisterTTRPCEventsService(server, &eventForwarder{engine: eng})
	return &TTRPCServer{server: server}, nil
}

// Serve answers calls on l until Close.
func (s *TTRPCServer) Serve(ctx context.Context, l net.Listener) error { return s.server.Serve(ctx, l) }

// Close ends all connections.
func (s *TTRPCServer) Close() error { return s.server.Close() }

type eventForwarder struct{ engine *engine.Engine }

// Forward publishes an event that a shim has put into its envelope. The namespace in the envelope counts, not a header's.
func (f *eventForwarder) Forward(ctx context.Context, r *ttrpcevents.ForwardRequest) (*emptypb.Empty, error) {
	env := r.GetEnvelope()
	if env.GetEvent() == nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("forwarded envelope holds no event: %w", errdefs.ErrInvalidArgument))
	}
	if err := engine.CheckNamespace(env.Namespace); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	ev := engine.Event{Namespace: env.Namespace, Topic: env.Topic, Payload: *fromAny(env.Event)}
	if env.Timestamp != nil {
		ev.At = env.Timestamp.AsTime()
	}
	if err := f.engine.TaskEvent(ctx, ev); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &emptypb.Empty{}, nil
}
