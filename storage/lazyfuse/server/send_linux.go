package server

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// A Sender is a Layer that can give its whole blob away, behind all that readers wait for.
type Sender interface {
	// Send writes the blob from off on, to its end or until ctx is done.
	Send(ctx context.Context, off int64, to io.Writer) error
}

// Send implements control.Handler.
func (s *Server) Send(id string, off int64) (func(ctx context.Context, to io.Writer) error, error) {
	a := s.fs.layers.find(id)
	if a == nil {
		return nil, fmt.Errorf("cannot send the blob of layer %s: %w", id, errdefs.ErrNotFound)
	}
	return func(ctx context.Context, to io.Writer) error {
		a, l, err := s.fs.layers.use(a.slot)
		if err != nil {
			return err
		}
		defer a.users.Done()
		sender, ok := l.(Sender)
		if !ok {
			return fmt.Errorf("cannot send the blob of layer %s: it only reads files: %w", id, errdefs.ErrNotImplemented)
		}
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		undo := context.AfterFunc(a.ctx, stop) // the layer is detached
		defer undo()
		return sender.Send(ctx, off, to)
	}, nil
}
