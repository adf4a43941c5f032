package client

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
)

// Event is one message of the daemon's event stream.
type Event struct {
	At        time.Time
	Namespace string
	Topic     string // such as /tasks/exit
	Payload   any    // a message of containerd's api/events when this program links it, else nil
}

// Events yields what happens from now on and matches any of the filters, in containerd's filter language, until ctx ends or
// an error, which is the last element. Events are not kept: what happens before the first element is asked for is missed.
func (c *Client) Events(ctx context.Context, filters ...string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s, err := c.events.Subscribe(ctx, &eventsapi.SubscribeRequest{Filters: filters})
		for err == nil {
			var env, rerr = s.Recv()
			if rerr != nil {
				err = rerr
				break
			}
			e := Event{At: env.Timestamp.AsTime(), Namespace: env.Namespace, Topic: env.Topic}
			if payload, uerr := typeurl.UnmarshalAny(env.Event); uerr == nil {
				e.Payload = payload
			}
			if !yield(e, nil) {
				return
			}
		}
		if !errors.Is(err, io.EOF) && !errdefs.IsCanceled(err) {
			yield(Event{}, err)
		}
	}
}
