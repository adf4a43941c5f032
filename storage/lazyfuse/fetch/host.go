package fetch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/containerd/errdefs"
)

// host orders the GETs of blobs that come from the same place. The scheduler's lock guards it.
type host struct {
	s      *Scheduler
	queue  []*piece // in order of arrival
	active []*piece

	line    line
	limit   int                // GETs at a time: halved by a failure, doubled by a success
	hold    [classes]time.Time // no GET of the class before, as the host asked for
	failing bool
	timer   *time.Timer   // fires when the next queued piece may go
	calm    chan struct{} // what is slowed waits for it; closed when there is nothing urgent any more
}

func (s *Scheduler) host(name string) *host {
	h := s.hosts[name]
	if h == nil {
		h = &host{s: s, limit: s.opts.Parallel, calm: make(chan struct{})}
		s.hosts[name] = h
	}
	return h
}

func (h *host) enqueue(p *piece) {
	h.queue = append(h.queue, p)
	h.dispatch()
}

func (h *host) unqueue(p *piece) {
	for i, other := range h.queue {
		if other == p {
			h.queue = append(h.queue[:i], h.queue[i+1:]...)
			return
		}
	}
}

// close gives everything up.
func (h *host) close() {
	if h.timer != nil {
		h.timer.Stop()
	}
	for _, list := range [][]*piece{h.active, append([]*piece(nil), h.queue...)} {
		for _, p := range list {
			p.giveUp(errClosed)
		}
	}
	h.wake()
}

// dispatch begins all GETs that may begin.
func (h *host) dispatch() {
	if h.s.closed {
		return
	}
	now := time.Now()
	for {
		p := h.next(now)
		if p == nil {
			break
		}
		h.unqueue(p)
		h.start(p)
	}
	h.setTimer(now)
}

// next is the most urgent piece that may go, the oldest of those.
func (h *host) next(now time.Time) *piece {
	for class := range classes {
		if !h.room(class) {
			continue
		}
		for _, p := range h.queue {
			if p.class == class && !h.earliest(p).After(now) && h.s.reserve(p) {
				return p
			}
		}
	}
	return nil
}

func (h *host) earliest(p *piece) time.Time {
	if hold := h.hold[p.class]; hold.After(p.notBefore) {
		return hold
	}
	return p.notBefore
}

// room says whether the class may have one more GET. Two places are kept for those who wait; the profile has twice the rest once it is
// known how much the line bears; the background has a quarter, and one while somebody waits. Those who wait do not queue up behind GETs that have delivered what was wanted and go on only
// because nobody breaks them off.
func (h *host) room(class Class) bool {
	var n [classes]int
	waited, coming := 0, int64(0)
	for _, p := range h.active {
		n[p.class]++
		coming += p.length() - p.have
		if p.urgent() {
			waited++
		}
	}
	if class == Foreground {
		return waited < h.limit && len(h.active) < 4*h.limit
	}
	limit := h.limit
	if class == Profile && h.line.trip > 0 && h.limit > 2 {
		limit = 2*h.limit - 2 // small ranges keep a wide line busy only together
	}
	if len(h.active) >= limit {
		return false
	}
	if class == Profile {
		return n[Profile]+n[Background] < max(1, limit-2) && coming < h.line.window() // what a start needs first comes first
	}
	if h.urgent() {
		return n[Background] < 1
	}
	return n[Background] < max(1, h.limit/4)
}

// urgent says whether anybody but the background waits for this host.
func (h *host) urgent() bool {
	for _, list := range [][]*piece{h.active, h.queue} {
		for _, p := range list {
			if p.urgent() {
				return true
			}
		}
	}
	return false
}

// wake lets what is slowed look again, and begins what may begin.
func (h *host) wake() {
	close(h.calm)
	h.calm = make(chan struct{})
	h.dispatch()
}

// setTimer sees to it that the next piece whose pause ends is begun then.
func (h *host) setTimer(now time.Time) {
	var next time.Time
	for _, p := range h.queue {
		if at := h.earliest(p); at.After(now) && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	if h.timer != nil {
		h.timer.Stop()
		h.timer = nil
	}
	if next.IsZero() {
		return
	}
	h.timer = time.AfterFunc(next.Sub(now), func() {
		h.s.mu.Lock()
		defer h.s.mu.Unlock()
		h.dispatch()
	})
}

// start begins the GET of a piece.
func (h *host) start(p *piece) {
	ctx, cancel := context.WithCancelCause(context.Background()) // a GET serves more readers than the one that began it
	p.active, p.cancel = true, cancel
	h.active = append(h.active, p)
	h.s.counters[p.cause].Requests++
	h.s.work.Go(func() {
		err := p.get(ctx)
		cancel(nil)
		if err == nil {
			p.store()
		}
		h.s.mu.Lock()
		defer h.s.mu.Unlock()
		h.finish(p, err)
	})
}

// finish takes in how a GET has ended.
func (h *host) finish(p *piece, err error) {
	p.active = false
	for i, other := range h.active {
		if other == p {
			h.active = append(h.active[:i], h.active[i+1:]...)
			break
		}
	}
	switch {
	case p.err != nil: // given up meanwhile
		p.release()
	case err == nil:
		p.done = true
		h.succeeded()
		p.broadcast()
		if p.readers == 0 {
			p.rest()
		}
	default:
		h.s.counters[p.cause].Failures++
		h.failed(p, err)
	}
	h.wake()
}

func (h *host) succeeded() {
	h.limit = min(2*h.limit, h.s.opts.Parallel)
	if !h.failing {
		return
	}
	h.failing = false
	for _, p := range h.queue { // it is back: no reason to wait longer
		p.notBefore = time.Time{}
	}
}

// backgroundTries is how often the background tries without progress before it fails: nobody waits for it, and it knows when to come
// back.
const backgroundTries = 5

// maxBad is how many answers that contradict what was asked for are too many.
const maxBad = 4

// failed decides what becomes of a piece whose GET has failed.
func (h *host) failed(p *piece, err error) {
	p.last = err
	if isBad(err) {
		p.bad++
	}
	switch {
	case isFinal(err):
		p.giveUp(err)
		return
	case p.bad >= maxBad:
		p.giveUp(fmt.Errorf("%d answers contradict the manifest, has the blob in the registry changed? %w: %w", p.bad, err, errdefs.ErrDataLoss))
		return
	case p.readers == 0:
		p.giveUp(errUnwanted)
		return
	case p.class == Background && p.attempts+1 >= backgroundTries:
		p.giveUp(err)
		return
	}
	now := time.Now()
	pause := jitter(h.s.opts.Backoff << min(p.attempts, 5))
	p.attempts++
	p.notBefore = now.Add(pause)
	h.failing = true
	h.limit = max(1, h.limit/2)
	var asked interface{ RetryAfter() time.Duration }
	if errors.As(err, &asked) && asked.RetryAfter() > 0 || errdefs.IsResourceExhausted(err) {
		after := pause
		if asked != nil {
			after = max(after, min(asked.RetryAfter(), h.s.opts.Deadline))
		}
		h.holdOff(now, p.class, after)
	}
	if p.have == 0 { // others can use the memory meanwhile
		p.recycle()
		p.release()
	}
	h.queue = append(h.queue, p)
}

// holdOff keeps the classes that are no more urgent than the one the host has complained to away from it, the background
// twice as long.
func (h *host) holdOff(now time.Time, class Class, after time.Duration) {
	for c := class; c < classes; c++ {
		until := now.Add(after + jitter(after/8))
		if c == Background {
			until = until.Add(after)
		}
		if until.After(h.hold[c]) {
			h.hold[c] = until
		}
	}
}

// jitter is between half and one and a half of d.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d+1)
}

// isFinal says that the same request will not succeed later.
func isFinal(err error) bool {
	for _, is := range []func(error) bool{errdefs.IsNotFound, errdefs.IsUnauthorized, errdefs.IsPermissionDenied,
		errdefs.IsInvalidArgument, errdefs.IsNotImplemented} {
		if is(err) {
			return true
		}
	}
	return false
}

// isBad says that an answer contradicted what was asked for. OutOfRange is one: the manifest tells how long the blob is.
func isBad(err error) bool {
	return errors.Is(err, errLength) || errdefs.IsOutOfRange(err) || errdefs.IsFailedPrecondition(err) || errdefs.IsDataLoss(err)
}
