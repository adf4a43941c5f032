package lazyfuse

import (
	"context"

	"github.com/slipwayd/slipway/storage/lazyfuse/index"
)

// This file is for layers that are served while they come (package stream). To ask them for what they have is to wait until they have
// arrived, so this process does not: it waits for the arrival itself, with no lock held and until its caller gives up.

// coming says that the layer is served while it comes, and has not arrived.
func (s *served) coming() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Kind == index.Stream && !s.filled
}

// comingOf answers which of the layers ids are coming.
func (d *Driver) comingOf(ids []string) (out []*served) {
	for _, id := range ids {
		if s := d.lookup(id); s != nil && s.coming() {
			out = append(out, s)
		}
	}
	return out
}

// awaitHere waits until none of the layers ids is coming.
func (d *Driver) awaitHere(ctx context.Context, ids []string) error {
	for _, s := range d.comingOf(ids) {
		select {
		case <-s.here:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// askable waits for those of a layer's parents that are coming, if the layer has questions to them. One that is coming itself has none:
// what it leaves to those below is seen when it has arrived.
func (d *Driver) askable(ctx context.Context, id string, parents []string) error {
	s := d.lookup(id)
	asks := s != nil && !s.coming() && s.asks()
	if s == nil {
		var err error
		if asks, err = d.Driver.Pending(id); err != nil {
			return err
		}
	}
	if !asks {
		return nil
	}
	return d.awaitHere(ctx, parents)
}

// asks says that the layer is not settled.
func (s *served) asks() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.settled && !s.filled
}
