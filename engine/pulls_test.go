package engine

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
)

func part(text string, size, offset int64, state image.State) image.Progress {
	return image.Progress{Desc: ocispec.Descriptor{Digest: digest.FromString(text), Size: size}, Offset: offset, State: state}
}

// TestPulls: a pull is listed in its namespace with how far it is, until it ends.
func TestPulls(t *testing.T) {
	e := &Engine{}
	var err error
	told := 0
	var events []PullProgress
	var topics []string
	publish := func(namespace, topic string, p Payload) {
		topics, events = append(topics, namespace+topic), append(events, p.(PullProgress))
	}
	p, ended := e.pulls.begin("ns", "x", func(image.Progress) { told++ }, publish, &err)
	for _, one := range []image.Progress{
		{Name: "resolving"}, part("a", 100, 10, image.Downloading), part("b", 50, 0, image.Exists), part("a", 100, 40, image.Downloading),
	} {
		p.note(one)
	}
	if list := e.Pulls("ns"); len(list) != 1 || list[0].Ref != "x" || list[0].Done != 90 || list[0].Bytes != 150 || list[0].Unpacking || told != 4 {
		t.Errorf("got %+v, told %d times", list, told)
	}
	p.note(part("c", 10, 10, image.Unpacking)) // which waits for the layer below it
	if list := e.Pulls("ns"); list[0].Unpacking {
		t.Errorf("while something is on its way: %+v", list)
	}
	p.told = p.told.Add(-tellPull) // as if some time had gone by
	p.note(part("a", 100, 100, image.Unpacking))
	p.note(part("a", 100, 100, image.Unpacking)) // so soon after nothing is told
	if list := e.Pulls("ns"); !list[0].Unpacking {
		t.Errorf("got %+v", list)
	}
	if list := e.Pulls("other"); len(list) != 0 {
		t.Errorf("in another namespace: %+v", list)
	}
	ended()
	if list := e.Pulls("ns"); len(list) != 0 || e.pulls.done.Load() != 1 {
		t.Errorf("after its end: %+v", list)
	}
	if want := []string{"ns/images/pull/begin", "ns/images/pull/progress", "ns/images/pull/done"}; !slices.Equal(topics, want) {
		t.Errorf("told of %q", topics)
	} else if want := (PullProgress{Ref: "x", State: "unpacking", Done: 160, Bytes: 160}); events[1] != want || events[2].State != "done" {
		t.Errorf("told %+v", events)
	}
	_, ended = e.pulls.begin("ns", "y", nil, publish, &err)
	err = errdefs.ErrNotFound
	if ended(); topics[4] != "ns/images/pull/failed" || events[4] != (PullProgress{Ref: "y", State: "not found"}) {
		t.Errorf("told of a failure: %+v", events[3:])
	}
}

func TestPatience(t *testing.T) {
	patience := Patience{For: time.Millisecond, Bytes: 10}
	for _, c := range []struct {
		before int64
		now    Pulling
		want   bool
	}{
		{0, Pulling{}, true},
		{0, Pulling{Done: 9}, true},
		{0, Pulling{Done: 10}, false},
		{10, Pulling{Done: 15}, true},
		{10, Pulling{Done: 15, Unpacking: true}, false},
	} {
		if got := patience.ends(c.before, c.now); got != c.want {
			t.Errorf("%d bytes, then %+v: %t", c.before, c.now, got)
		}
	}
	// The pull that nothing comes for ends, and says why.
	e := &Engine{}
	var err error
	p, ended := e.pulls.begin("ns", "x", nil, func(string, string, Payload) {}, &err)
	defer ended()
	ctx, stop := p.watch(t.Context(), patience, &err)
	<-ctx.Done()
	err = ctx.Err()
	if stop(); !errdefs.IsUnavailable(err) {
		t.Errorf("ended with %v", err)
	}
	// One that ended for another reason keeps that.
	outer, cancel := context.WithCancel(t.Context())
	_, stop = p.watch(outer, Patience{For: time.Hour, Bytes: 1}, &err)
	cancel()
	err = context.Canceled
	if stop(); err != context.Canceled {
		t.Errorf("ended with %v", err)
	}
}
