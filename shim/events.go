package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	events "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"github.com/slipwayd/slipway/internal/ipc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// eventServer takes what shims forward, on a socket of its own: TTRPC_ADDRESS of every shim that the Manager starts.
type eventServer struct {
	path    string
	server  *ttrpc.Server
	receive func(*types.Envelope)
	done    chan struct{}
	order   sync.Mutex
	closed  bool // under order
}

func listenEvents(path string, receive func(*types.Envelope)) (*eventServer, error) {
	l, err := ipc.Listen(path)
	if err != nil {
		return nil, fmt.Errorf("cannot take events of shims: %w", err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		l.Close()
		return nil, err
	}
	s := &eventServer{path: path, server: server, receive: receive, done: make(chan struct{})}
	events.RegisterTTRPCEventsService(server, s)
	go func() {
		defer close(s.done)
		_ = server.Serve(context.Background(), l)
	}()
	return s, nil
}

// Forward implements the events service.
func (s *eventServer) Forward(ctx context.Context, r *events.ForwardRequest) (*emptypb.Empty, error) {
	s.order.Lock()
	defer s.order.Unlock()
	if s.closed { // the server closes connections in the background; the shim keeps the event for our successor
		return nil, status.Error(codes.Unavailable, "the daemon is shutting down")
	}
	s.receive(r.Envelope)
	return &emptypb.Empty{}, nil
}

func (s *eventServer) Close() error {
	s.order.Lock()
	s.closed = true
	s.order.Unlock()
	err := s.server.Close()
	<-s.done
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return err
}
