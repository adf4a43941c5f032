package engine

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/metadata/filter"
)

// Event is one message of the event stream.
type Event struct {
	At        time.Time // when it happened; Publish fills in the present when it is zero
	Namespace string
	Topic     string // such as /containers/create
	Payload   Payload
}

// Payload is one of this package's event structs, which api/containerd encodes, or an opaque.Any of a shim or a client.
type Payload any

// subscriberQueue is how many events a subscriber may be behind before it is cut off. A start and its end are about six
// events, so this is several hundred containers within one round trip.
const subscriberQueue = 4096

// broker hands each event to every subscriber whose filters match it. Nothing is kept for those who come later, and a
// subscriber that does not keep up is closed with ResourceExhausted rather than served from memory without end.
type broker struct {
	field func(Payload, []string) (string, bool)

	mu     sync.Mutex // also orders events: all subscribers see the same sequence
	subs   map[*Subscription]struct{}
	closed bool
}

func newBroker(field func(Payload, []string) (string, bool)) *broker {
	return &broker{field: field, subs: map[*Subscription]struct{}{}}
}

// Subscription is one subscriber's queue. Its owner reads Next until it fails and then calls Close.
type Subscription struct {
	b      *broker
	match  filter.Filter
	queue  chan *Event // closed by the broker, after err is set
	err    error
	closed bool // under b.mu
}

// Publish hands ev to all subscribers and never blocks. InvalidArgument when its namespace or topic is malformed.
func (e *Engine) Publish(_ context.Context, ev Event) error {
	if ev.Namespace == "" {
		return fmt.Errorf("event without a namespace: %w", errdefs.ErrInvalidArgument)
	}
	if err := checkTopic(ev.Topic); err != nil {
		return err
	}
	if ev.At.IsZero() {
		ev.At = time.Now()
	}
	e.events.publish(&ev)
	return nil
}

// publish is Publish for the engine's own events, which are well-formed.
func (e *Engine) publish(ns, topic string, p Payload) {
	e.events.publish(&Event{At: time.Now(), Namespace: ns, Topic: topic, Payload: p})
}

func checkTopic(topic string) error {
	rest, ok := strings.CutPrefix(topic, "/")
	if !ok || rest == "" || len(topic) > 1024 {
		return fmt.Errorf("event topic %q must begin with / and name something: %w", topic, errdefs.ErrInvalidArgument)
	}
	for part := range strings.SplitSeq(rest, "/") {
		if part == "" {
			return fmt.Errorf("event topic %q has an empty part: %w", topic, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// Subscribe begins a subscription to the events that match any of filters (all when there are none), in containerd's
// filter language over namespace, topic and event.FIELD. The caller must Close it.
func (e *Engine) Subscribe(_ context.Context, filters ...string) (*Subscription, error) {
	match, err := filter.Parse(filters...)
	if err != nil {
		return nil, err
	}
	s := &Subscription{b: e.events, match: match, queue: make(chan *Event, subscriberQueue)}
	e.events.mu.Lock()
	defer e.events.mu.Unlock()
	if e.events.closed {
		return nil, fmt.Errorf("daemon is shutting down: %w", errdefs.ErrUnavailable)
	}
	e.events.subs[s] = struct{}{}
	return s, nil
}

// Next waits for the next event. ResourceExhausted after a subscriber fell too far behind, Unavailable after the engine closed.
func (s *Subscription) Next(ctx context.Context) (*Event, error) {
	select {
	case ev, ok := <-s.queue:
		if !ok {
			return nil, s.err
		}
		return ev, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close ends the subscription. It may be called more than once.
func (s *Subscription) Close() {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.b.drop(s, fmt.Errorf("subscription is closed: %w", errdefs.ErrUnavailable))
}

// drop needs b.mu.
func (b *broker) drop(s *Subscription, err error) {
	if s.closed {
		return
	}
	s.closed, s.err = true, err
	delete(b.subs, s)
	close(s.queue)
}

func (b *broker) publish(ev *Event) {
	fields := eventFields{ev: ev, payload: b.field}
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.subs {
		if !s.match.Match(fields.field) {
			continue
		}
		select {
		case s.queue <- ev:
		default:
			b.drop(s, fmt.Errorf("subscriber is more than %d events behind, subscribe again: %w", subscriberQueue, errdefs.ErrResourceExhausted))
		}
	}
}

func (b *broker) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for s := range b.subs {
		b.drop(s, fmt.Errorf("daemon is shutting down: %w", errdefs.ErrUnavailable))
	}
}

// eventFields is an event as filters see it.
type eventFields struct {
	ev      *Event
	payload func(Payload, []string) (string, bool)
}

func (f eventFields) field(path []string) (string, bool) {
	switch {
	case len(path) == 1 && path[0] == "namespace":
		return f.ev.Namespace, true
	case len(path) == 1 && path[0] == "topic":
		return f.ev.Topic, true
	case len(path) > 1 && path[0] == "event" && f.payload != nil:
		return f.payload(f.ev.Payload, path[1:])
	}
	return "", false
}
