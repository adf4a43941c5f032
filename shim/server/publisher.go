package server

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	events "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// maxQueue bounds the events kept while no daemon takes them. When there are more the oldest go: a daemon that comes back asks
// for the state of every task anyway.
const maxQueue = 16384

// Forwarder sends events to a daemon's ttrpc service containerd.services.events.ttrpc.v1.Events, one after the other, and keeps
// them while the daemon is away.
type Forwarder struct {
	dial func(ctx context.Context) (net.Conn, error)
	log  *slog.Logger

	mu      sync.Mutex
	queue   []*types.Envelope
	dropped int

	wake, retry chan struct{} // one slot each
	cancel      context.CancelFunc
	done        chan struct{}
}

// NewForwarder starts forwarding over connections that dial makes. Close ends it.
func NewForwarder(dial func(ctx context.Context) (net.Conn, error), log *slog.Logger) *Forwarder {
	ctx, cancel := context.WithCancel(context.Background())
	f := &Forwarder{
		dial: dial, log: log, cancel: cancel,
		wake: make(chan struct{}, 1), retry: make(chan struct{}, 1), done: make(chan struct{}),
	}
	go f.run(ctx)
	return f
}

// Publish queues an event.
func (f *Forwarder) Publish(namespace, topic string, at time.Time, event proto.Message) {
	payload, err := typeurl.MarshalAnyToProto(event)
	if err != nil {
		f.log.Error("cannot encode an event", "topic", topic, "error", err)
		return
	}
	f.mu.Lock()
	if len(f.queue) >= maxQueue {
		f.queue[0] = nil
		f.queue = f.queue[1:]
		f.dropped++
	}
	f.queue = append(f.queue, &types.Envelope{Timestamp: timestamppb.New(at), Namespace: namespace, Topic: topic, Event: payload})
	f.mu.Unlock()
	poke(f.wake)
}

// Retry cuts the pause between two attempts short: somebody has seen the daemon.
func (f *Forwarder) Retry() { poke(f.retry) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Close stops; events still queued are lost.
func (f *Forwarder) Close() error {
	f.cancel()
	<-f.done
	return nil
}

func (f *Forwarder) run(ctx context.Context) {
	defer close(f.done)
	var client *ttrpc.Client
	defer func() {
		if client != nil {
			client.Close()
		}
	}()
	pause := 100 * time.Millisecond
	for {
		head := f.head()
		if head == nil {
			select {
			case <-ctx.Done():
				return
			case <-f.wake:
			}
			continue
		}
		if err := f.send(ctx, &client, head); err != nil {
			timer := time.NewTimer(pause)
			pause = min(2*pause, 2*time.Second)
			select {
			case <-ctx.Done():
				return
			case <-f.retry:
			case <-timer.C:
			}
			timer.Stop()
			continue
		}
		pause = 100 * time.Millisecond
		f.sent(head)
	}
}

// send forwards one event, over a new connection when the old one failed.
func (f *Forwarder) send(ctx context.Context, client **ttrpc.Client, e *types.Envelope) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for range 2 {
		fresh := *client == nil
		if fresh {
			conn, err := f.dial(ctx)
			if err != nil {
				return err
			}
			*client = ttrpc.NewClient(conn)
		}
		_, err := events.NewTTRPCEventsClient(*client).Forward(ctx, &events.ForwardRequest{Envelope: e})
		if err == nil {
			return nil
		}
		if st, answered := status.FromError(err); answered && st.Code() != codes.Unavailable {
			f.log.Error("the daemon refused an event", "topic", e.Topic, "namespace", e.Namespace, "error", err)
			return nil
		}
		(*client).Close()
		*client = nil
		if fresh {
			return err
		}
	}
	return ctx.Err()
}

func (f *Forwarder) head() *types.Envelope {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.queue) == 0 {
		f.queue = nil
		return nil
	}
	return f.queue[0]
}

// sent takes e off the queue, unless it was dropped meanwhile.
func (f *Forwarder) sent(e *types.Envelope) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.queue) > 0 && f.queue[0] == e {
		f.queue[0] = nil
		f.queue = f.queue[1:]
	}
	if f.dropped > 0 {
		f.log.Warn("events were dropped while no daemon took them", "count", f.dropped)
		f.dropped = 0
	}
}
