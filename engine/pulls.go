package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/image"
)

// Pulling is an image on its way here.
type Pulling struct {
	Namespace, Ref string
	Begun          time.Time
	Done, Bytes    int64 // so many bytes of what is known to be needed
	Unpacking      bool  // nothing is on its way any more, and something is being unpacked
}

func (p Pulling) String() string {
	return fmt.Sprintf("%d of %d bytes are here after %s", p.Done, p.Bytes, time.Since(p.Begun).Round(time.Second))
}

// Pulls lists what is being pulled in a namespace, the oldest first.
func (e *Engine) Pulls(namespace string) []Pulling {
	e.pulls.mu.Lock()
	defer e.pulls.mu.Unlock()
	var list []Pulling
	for p := range e.pulls.now {
		if p.namespace == namespace {
			list = append(list, p.view())
		}
	}
	slices.SortFunc(list, func(a, b Pulling) int { return a.Begun.Compare(b.Begun) })
	return list
}

// Patience is how long a pull may bring less than Bytes before it is given up, however long it takes in all. Zero is for ever.
type Patience struct {
	For   time.Duration
	Bytes int64
}

// ends tells whether too little came since so much was here. While all that is left is to unpack nothing need come.
func (p Patience) ends(before int64, now Pulling) bool {
	return !now.Unpacking && now.Done-before < p.Bytes
}

// pulling is one pull. Its method note is its ProgressFunc.
type pulling struct {
	namespace, ref string
	begun          time.Time
	also           image.ProgressFunc // may be nil
	publish        func(namespace, topic string, p Payload)

	mu    sync.Mutex
	parts map[digest.Digest]image.Progress
	told  time.Time // when the last event was
}

// tellPull is the least time between two events of a pull's progress.
const tellPull = time.Second

func (p *pulling) note(part image.Progress) {
	if p.also != nil {
		p.also(part)
	}
	if part.Desc.Digest == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parts[part.Desc.Digest] = part
	if now := time.Now(); now.Sub(p.told) >= tellPull {
		p.told = now
		p.tell("progress", "")
	}
}

// tell needs p.mu. Without a state it is what the pull does.
func (p *pulling) tell(topic, state string) {
	v := p.sum()
	if state == "" {
		state = "pulling"
		if v.Unpacking {
			state = "unpacking"
		}
	}
	p.publish(p.namespace, "/images/pull/"+topic, PullProgress{Ref: p.ref, State: state, Done: v.Done, Bytes: v.Bytes})
}

// end tells of it.
func (p *pulling) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.tell("failed", err.Error())
	} else {
		p.tell("done", "done")
	}
}

func (p *pulling) view() Pulling {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sum()
}

// sum needs p.mu.
func (p *pulling) sum() Pulling {
	v := Pulling{Namespace: p.namespace, Ref: p.ref, Begun: p.begun}
	fetching := false
	for _, part := range p.parts {
		v.Bytes += part.Desc.Size
		switch part.State {
		case image.Exists, image.Done, image.Served:
			v.Done += part.Desc.Size
		default:
			v.Done += min(part.Offset, part.Desc.Size)
			v.Unpacking = v.Unpacking || part.State == image.Unpacking
			fetching = fetching || part.State == image.Downloading
		}
	}
	v.Unpacking = v.Unpacking && !fetching
	return v
}

// begin lists and counts a pull and tells of it, whose result is at err when ended is called.
func (c *pullCounts) begin(
	namespace, ref string, also image.ProgressFunc, publish func(namespace, topic string, p Payload), err *error,
) (p *pulling, ended func()) {
	now := time.Now()
	p = &pulling{namespace: namespace, ref: ref, begun: now, also: also, publish: publish, parts: map[digest.Digest]image.Progress{}, told: now}
	publish(namespace, "/images/pull/begin", PullProgress{Ref: ref, State: "pulling"})
	c.running.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil {
		c.now = map[*pulling]struct{}{}
	}
	c.now[p] = struct{}{}
	return p, func() {
		c.mu.Lock()
		delete(c.now, p)
		c.mu.Unlock()
		c.running.Add(-1)
		p.end(*err)
		if *err != nil {
			c.failed.Add(1)
		} else {
			c.done.Add(1)
		}
	}
}

// watch answers a context that ends when too little comes for too long; stop ends the watching, and puts the reason into err.
func (p *pulling) watch(ctx context.Context, patience Patience, err *error) (_ context.Context, stop func()) {
	if patience.For <= 0 {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(patience.For)
		defer tick.Stop()
		for before := int64(0); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			now := p.view()
			if patience.ends(before, now) {
				cancel(fmt.Errorf("cannot pull %s: less than %d bytes came in %s (%s); given up, what came is kept for the next pull: %w",
					p.ref, patience.Bytes, patience.For, now, errdefs.ErrUnavailable))
				return
			}
			before = now.Done
		}
	}()
	return ctx, func() {
		if cause := context.Cause(ctx); *err != nil && errdefs.IsUnavailable(cause) {
			*err = cause
		}
		cancel(nil)
		<-done
	}
}
