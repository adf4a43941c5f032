package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
)

func TestSlowSubscriberIsCutOffAndOthersAreNot(t *testing.T) {
	b := newBench(t)
	slow, err := b.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	quick, err := b.Subscribe(t.Context(), `topic=="/last"`)
	if err != nil {
		t.Fatal(err)
	}
	defer quick.Close()
	for range subscriberQueue + 1 {
		b.publish(benchNS, "/some", exitPayload{})
	}
	b.publish(benchNS, "/last", exitPayload{})
	for range subscriberQueue { // what fitted is still delivered
		if _, err := slow.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := slow.Next(t.Context()); !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("a subscriber that is too slow gets %v", err)
	}
	slow.Close() // after the broker closed it
	if ev, err := quick.Next(t.Context()); err != nil || ev.Topic != "/last" {
		t.Errorf("the other subscriber gets %v, %v", ev, err)
	}
}

func TestSubscriptionsEnd(t *testing.T) {
	b := newBench(t)
	s, err := b.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait gives %v", err)
	}
	s.Close()
	s.Close()
	if _, err := s.Next(t.Context()); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("a closed subscription gives %v", err)
	}
	last, err := b.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.events.close()
	if _, err := last.Next(t.Context()); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("after the end a subscription gives %v", err)
	}
	if _, err := b.Subscribe(t.Context()); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("after the end Subscribe gives %v", err)
	}
}

// All subscribers see one order, whoever publishes.
func TestSubscribersAgreeOnTheOrder(t *testing.T) {
	b := newBench(t)
	var subs []*Subscription
	for range 3 {
		s, err := b.Subscribe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		subs = append(subs, s)
	}
	const publishers, each = 8, 50
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for i := range each {
				b.publish(benchNS, fmt.Sprintf("/p%d/n%d", p, i), nil)
			}
		})
	}
	wg.Wait()
	for range publishers * each {
		first, err := subs[0].Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range subs[1:] {
			if ev, err := s.Next(t.Context()); err != nil || ev != first {
				t.Fatalf("one sees %s, another %v, %v", first.Topic, ev, err)
			}
		}
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, subscribers := range []int{0, 1, 10} {
		b.Run(fmt.Sprint(subscribers, " subscribers"), func(b *testing.B) {
			br := newBroker(nil)
			e := &Engine{events: br}
			for range subscribers {
				s, err := e.Subscribe(b.Context(), "topic~=^/tasks/")
				if err != nil {
					b.Fatal(err)
				}
				go func() {
					for {
						if _, err := s.Next(b.Context()); err != nil {
							return
						}
					}
				}()
			}
			b.ReportAllocs()
			for b.Loop() {
				e.publish("ns", "/images/create", nil)
			}
			br.close()
		})
	}
}
