package engine

import (
	"context"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/image/startprofile"
	"github.com/slipwayd/slipway/shim"
	"github.com/slipwayd/slipway/storage"
)

// When a start is over: nothing new was opened for startQuiet and nobody waits for a registry, or the task has ended, or
// startLimit is over.
const (
	startQuiet = 5 * time.Second
	startLimit = time.Minute
	// createdLimit is how long a task may be created before it is started and noted all the same.
	createdLimit = 5 * time.Minute
	// heldLimit is how long the background waits for a task that is created to be started. Clients do that at once; some never do.
	heldLimit = 10 * time.Second
	lookEvery = 250 * time.Millisecond
)

// startRecorder notes what one start reads. Of a layer one start is noted at a time: what others read meanwhile is taken for
// this one's, and drops out of the profile with further starts.
type startRecorder struct {
	e         *Engine
	start     *starting
	container string
	layers    []string                   // ids of those that are noted
	touched   map[string][]storage.Touch // by layer
	seen      storage.Observation        // who knows, when all layers are here; nil when it is the server of lazy layers
}

// record begins to note a start; nil when all layers are being noted for another one.
func (e *Engine) record(ctx context.Context, st *starting, container string) *startRecorder {
	r := &startRecorder{e: e, start: st, container: container, touched: map[string][]storage.Touch{}}
	for id := range st.served {
		e.recordedMu.Lock()
		_, busy := e.recorded[id]
		if !busy {
			e.recorded[id] = true
		}
		e.recordedMu.Unlock()
		if busy {
			continue
		}
		r.layers = append(r.layers, id)
		if err := st.driver.Record(ctx, id); err != nil {
			e.log.Info("a start is not recorded", "container", container, "err", err)
			r.drop()
			return nil
		}
	}
	if len(r.layers) == 0 {
		return nil
	}
	return r
}

// drop ends the recording.
func (r *startRecorder) drop() {
	if r.seen != nil {
		r.e.observed.end()
		if err := r.seen.Close(); err != nil {
			r.e.log.Warn("cannot end the observation of a start", "container", r.container, "err", err)
		}
		return
	}
	r.e.recordedMu.Lock()
	defer r.e.recordedMu.Unlock()
	for _, id := range r.layers {
		delete(r.e.recorded, id)
	}
}

// hold says whether the background waits for this start.
func (r *startRecorder) hold(on bool) {
	if r.seen != nil {
		return // its layers are here
	}
	r.e.recordedMu.Lock()
	defer r.e.recordedMu.Unlock()
	for _, id := range r.layers {
		r.e.recorded[id] = on
	}
}

// startsUnderWay says whether a container on layers that are on their way has begun to start, and not ended that. One that is only
// created counts for heldLimit.
func (e *Engine) startsUnderWay() bool {
	e.recordedMu.Lock()
	defer e.recordedMu.Unlock()
	for _, holds := range e.recorded {
		if holds {
			return true
		}
	}
	return false
}

// created begins to watch when the task is there, and gives up when it is not.
func (r *startRecorder) created(err error) {
	if r == nil {
		return
	}
	if err != nil {
		r.drop()
		return
	}
	r.e.bg.Go(func() {
		defer r.drop()
		if r.watch(r.e.life) {
			r.keep()
		}
	})
}

// watch looks on until the start is over, and says whether there was one.
func (r *startRecorder) watch(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = r.e.tasks.Wait(ctx, r.start.namespace, r.container, "") // whatever it says, it is over
	}()
	defer func() { cancel(); <-ended }()
	made, ticker := time.Now(), time.NewTicker(lookEvery)
	defer ticker.Stop()
	var began, last time.Time // of the start, and of the last touch in it
	for {
		select {
		case <-ended:
			r.look(ctx)
			return ctx.Err() == nil && len(r.touched) > 0 // nothing: it was never started
		case <-ticker.C:
		}
		now := time.Now()
		if began.IsZero() {
			if now.Sub(made) > createdLimit {
				return false
			}
			runs := r.runs(ctx)
			r.hold(runs || now.Sub(made) < heldLimit)
			if runs {
				began, last = now, now
			}
			continue
		}
		if r.look(ctx) || r.start.driver.Busy(ctx) {
			last = now
		}
		if now.Sub(last) >= startQuiet || now.Sub(began) >= startLimit {
			return len(r.touched) > 0
		}
	}
}

func (r *startRecorder) runs(ctx context.Context) bool {
	st, err := r.e.tasks.State(ctx, r.start.namespace, r.container, "")
	return err == nil && st.Status != shim.Created
}

// look asks what was touched, and says whether it is more than before. A layer that is gone has what it had.
func (r *startRecorder) look(ctx context.Context) (more bool) {
	if r.seen != nil {
		return r.lookAround(ctx)
	}
	for _, id := range r.layers {
		list, err := r.start.driver.Touched(ctx, id)
		if err == nil && len(list) > 0 && len(list) >= len(r.touched[id]) {
			more = more || len(list) > len(r.touched[id])
			r.touched[id] = list
		}
	}
	return more
}

// keep makes what was noted part of the profile of the image and its command line.
func (r *startRecorder) keep() {
	st, e := r.start, r.e
	s := startprofile.Start{At: time.Now()}
	for _, id := range r.layers {
		blob := st.served[id]
		s.Watched = append(s.Watched, blob)
		for _, t := range r.touched[id] {
			s.Files = append(s.Files, touch(blob, t))
		}
	}
	slices.SortStableFunc(s.Files, func(a, b startprofile.Touch) int { return int(a.Millis - b.Millis) })
	args := startprofile.Hash(st.args)
	p, err := e.profiles.Get(st.image, args)
	if errdefs.IsNotFound(err) {
		p, err = &startprofile.Profile{Image: st.image, Command: startprofile.Command(st.args), Args: args}, nil
	}
	if err == nil {
		p.Origin = ""
		p.Add(s)
		if len(p.Files) == 0 {
			return
		}
		err = e.profiles.Put(p)
	}
	if err != nil {
		e.log.Warn("cannot keep what a start has read", "container", r.container, "err", err)
		return
	}
	e.starts.recorded.Add(1)
	e.publish(st.namespace, "/images/profile/record", StartRecorded{describeProfile(p)})
	e.log.Debug("noted what a start reads", "container", r.container, "files", len(p.Files), "starts", p.Starts)
}

func touch(blob digest.Digest, t storage.Touch) startprofile.Touch {
	out := startprofile.Touch{Layer: blob, Path: t.Path, Millis: t.Millis, Whole: t.Whole}
	for _, r := range t.Ranges {
		out.Ranges = append(out.Ranges, r)
	}
	return out
}
