package containerd

import (
	"context"
	"log/slog"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestStopEndsOnlyTheCallsThatWait(t *testing.T) {
	g := newGuard(slog.New(slog.DiscardHandler))
	g.ready.Store(true)
	begun := make(chan struct{})
	answered := make(chan error, 1)
	go func() {
		_, err := g.unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/containerd.services.tasks.v1.Tasks/Wait"},
			func(ctx context.Context, _ any) (any, error) {
				close(begun)
				<-ctx.Done()
				return nil, ctx.Err()
			})
		answered <- err
	}()
	<-begun
	_, err := g.unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/containerd.services.tasks.v1.Tasks/Start"},
		func(ctx context.Context, _ any) (any, error) {
			g.stop()
			return nil, ctx.Err()
		})
	if err != nil {
		t.Errorf("a call that does something: %v", err)
	}
	if err := <-answered; status.Code(err) != codes.Unavailable {
		t.Errorf("a call that waits: %v, want Unavailable", err)
	}
}
