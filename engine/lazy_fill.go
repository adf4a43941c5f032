package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/storage"
)

// filler brings lazily pulled layers here: in the background politely, at once when somebody waits for them. What is to be done it
// reads off the drivers each time, so a crash leaves nothing but ingests, which the next daemon resumes.
type filler struct {
	e    *Engine
	wake chan struct{} // holds a token when there may be more to do

	wakeStreams chan struct{} // likewise, for layers that are served while they come

	mu   sync.Mutex
	jobs map[layerKey]*fillJob
	fail map[layerKey]fillFailure
	came map[layerKey]int64 // bytes of blobs that are on their way; since this daemon knows, so 0 of what it has yet to resume

	total atomic.Int64 // bytes that came since the daemon started
}

type layerKey struct{ driver, id string }

// fillJob is a layer that is being filled.
type fillJob struct {
	cancel context.CancelFunc
	hurry  atomic.Bool
	done   chan struct{} // closed at the end
	err    error         // valid then
}

// fillFailure says when a layer is tried again in the background.
type fillFailure struct {
	err   error
	count int
	next  time.Time
}

const (
	firstRetry = 5 * time.Second
	lastRetry  = 5 * time.Minute
	fillScan   = 30 * time.Second // between two looks when nobody says that there is something to do
	startScan  = time.Second      // and while a container starts, which needs the line for itself
)

func newFiller(e *Engine) *filler {
	return &filler{e: e, wake: make(chan struct{}, 1), wakeStreams: make(chan struct{}, 1), jobs: map[layerKey]*fillJob{}, fail: map[layerKey]fillFailure{}, came: map[layerKey]int64{}}
}

func (f *filler) poke() {
	for _, c := range []chan struct{}{f.wake, f.wakeStreams} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// run fills one layer after the other.
func (f *filler) run(ctx context.Context) {
	if f.e.lazy.Delay < 0 {
		return
	}
	for ctx.Err() == nil {
		next, wait := f.next(ctx)
		if next != nil {
			_ = f.fill(ctx, *next, false) // noted, and tried again
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-f.wake:
		}
		timer.Stop()
	}
}

// fillable is a layer that is on its way.
type fillable struct {
	key   layerKey
	layer storage.LazyLayer
	owner metadata.Owner
}

// list answers the layers that are on their way and committed, the oldest first.
func (f *filler) list(ctx context.Context) ([]fillable, error) {
	var out []fillable
	for name, driver := range f.e.drivers {
		lazy, ok := driver.(storage.Lazy)
		if !ok {
			continue
		}
		layers, err := lazy.Lazies(ctx, false)
		if err != nil || len(layers) == 0 {
			return out, err
		}
		found, err := view(ctx, f.e, func(tx *metadata.Tx) ([]fillable, error) { return committed(tx, name, layers) })
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// committed answers those of a driver's layers that are on their way and have a committed snapshot. Others are of pulls that are under
// way, or were cut short: their snapshots go, or are begun anew.
func committed(tx *metadata.Tx, driver string, layers []storage.LazyLayer) ([]fillable, error) {
	owners, err := tx.LayerIDs(driver)
	if err != nil {
		return nil, err
	}
	var out []fillable
	for _, l := range layers {
		owner, ok := owners[l.ID]
		if !ok || l.Filled {
			continue
		}
		s, err := tx.Snapshots(owner.Namespace, driver).Get(owner.Name)
		if err != nil {
			return nil, err
		}
		if s.Kind == storage.Committed {
			out = append(out, fillable{layerKey{driver, l.ID}, l, owner})
		}
	}
	return out, nil
}

// next answers a layer whose time has come, or how long to wait for one.
func (f *filler) next(ctx context.Context) (*fillable, time.Duration) {
	wait := fillScan
	if f.e.startsUnderWay() {
		return nil, startScan
	}
	all, err := f.list(ctx)
	if err != nil {
		f.e.log.Warn("cannot see which layers are on their way", "err", err)
		return nil, wait
	}
	for i := range all {
		if all[i].layer.Kind == storage.Stream {
			continue // streams sees to it
		}
		due := all[i].layer.AttachedAt.Add(f.e.lazy.Delay)
		f.mu.Lock()
		if failed := f.fail[all[i].key]; failed.next.After(due) {
			due = failed.next
		}
		f.mu.Unlock()
		if left := time.Until(due); left <= 0 {
			return &all[i], 0
		} else if left < wait {
			wait = left
		}
	}
	return nil, wait
}

// fill brings a layer here, or joins who does. With hurry nothing slows it.
func (f *filler) fill(ctx context.Context, l fillable, hurry bool) error {
	f.mu.Lock()
	job, runs := f.jobs[l.key]
	if !runs {
		var jobCtx context.Context
		job = &fillJob{done: make(chan struct{})}
		jobCtx, job.cancel = context.WithCancel(f.e.life) // others may join who outlast this caller
		f.jobs[l.key] = job
		f.e.bg.Go(func() { f.do(jobCtx, l, job) })
	}
	f.mu.Unlock()
	if hurry {
		job.hurry.Store(true)
	}
	select {
	case <-job.done:
		return job.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *filler) do(ctx context.Context, l fillable, job *fillJob) {
	defer job.cancel()
	err := f.fillLayer(ctx, l, job)
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.jobs, l.key)
	failed := f.fail[l.key]
	delete(f.fail, l.key)
	if job.err = err; err != nil && ctx.Err() == nil {
		failed = fillFailure{err: err, count: failed.count + 1}
		failed.next = time.Now().Add(min(lastRetry, firstRetry<<min(failed.count-1, 10)))
		f.fail[l.key] = failed
		f.e.log.Warn("a lazily pulled layer has not arrived, will try again", "image", l.layer.Source.Ref, "layer", l.layer.Source.Descriptor.Digest, "err", err)
	}
	if err == nil {
		delete(f.came, l.key)
		src := l.layer.Source
		f.e.publish(l.owner.Namespace, "/lazy/complete", LazyComplete{Image: src.Ref, Layer: src.Descriptor.Digest.String(), Snapshot: l.owner.Name})
	}
	close(job.done)
}

// progress notes how much of a layer's blob is here.
func (f *filler) progress(key layerKey) image.ProgressFunc {
	return func(p image.Progress) {
		if p.State == image.Downloading {
			f.mu.Lock()
			f.came[key] = p.Offset
			f.mu.Unlock()
		}
	}
}

// counted adds to a layer what its driver does not know.
func (f *filler) counted(driver string, l *storage.LazyLayer) {
	if l.BackgroundBytes = l.Source.Descriptor.Size; !l.Filled {
		f.mu.Lock()
		l.BackgroundBytes = f.came[layerKey{driver, l.ID}]
		f.mu.Unlock()
	}
}

// drop ends the filling of a layer that is about to be removed.
func (f *filler) drop(key layerKey) {
	f.mu.Lock()
	job := f.jobs[key]
	f.mu.Unlock()
	if job != nil {
		job.cancel()
		<-job.done
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.fail, key)
	delete(f.came, key)
}

// retry tries a layer again at once.
func (f *filler) retry(key layerKey) {
	f.mu.Lock()
	delete(f.fail, key)
	f.mu.Unlock()
	f.poke()
}

// lastError is why a layer has not arrived, if that was tried.
func (f *filler) lastError(key layerKey) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fail[key].err
}

func (f *filler) fillLayer(ctx context.Context, l fillable, job *fillJob) error {
	e := f.e
	sc, release, err := e.transferScope(ctx, Scope{Namespace: l.owner.Namespace})
	if err != nil {
		return err
	}
	defer release()
	s, err := e.Snapshots(sc, l.key.driver)
	if err != nil {
		return err
	}
	layer, err := s.layer(ctx, l.owner.Name)
	if err != nil {
		return err
	}
	if layer.ID != l.key.id || layer.Kind != storage.Committed {
		return fmt.Errorf("snapshot %s is another one by now: %w", l.owner.Name, errdefs.ErrNotFound)
	}
	snapshot, err := s.Stat(ctx, l.owner.Name)
	if err != nil {
		return err
	}
	src := l.layer.Source
	staged := &arrival{e: e, driver: s.driver.(storage.Lazy), layer: layer, source: src, parent: snapshot.Parent, chain: l.owner.Name}
	if l.layer.Kind == storage.Stream {
		staged.measured = s.measured(l.owner.Name)
	}
	fill := image.FillOptions{
		Ref: src.Ref, Registry: e.registry, Remote: remoteOf(src), Store: e.imageStore(sc),
		Layer:  image.Layer{Desc: src.Descriptor, DiffID: src.DiffID, Parent: digest.Digest(snapshot.Parent), Chain: digest.Digest(l.owner.Name), Image: src.Ref},
		Staged: staged, Pace: f.pace(s.driver.(storage.Lazy), job), Progress: f.progress(l.key),
	}
	// After wrong bytes it is the registry alone that is asked.
	if err := f.lastError(l.key); err == nil || errdefs.IsUnavailable(err) {
		fill.Near = func(ctx context.Context, off int64) (io.ReadCloser, error) {
			return s.driver.(storage.Lazy).Blob(ctx, layer, off)
		}
	}
	if e.indexes != nil && src.DiffID != "" {
		fill.Recorder = e.indexes.Own
	}
	defer e.memory.work()()
	return image.Fill(ctx, fill)
}

// remoteOf is how a source's registry is reached.
func remoteOf(src storage.Source) registry.Options {
	o := registry.Options{PlainHTTP: src.PlainHTTP, SkipVerify: src.SkipVerify, Header: src.Header, HostsDirs: src.HostsDirs}
	if src.DockerConfig != "" {
		o.Credentials = registry.DockerCredentials(src.DockerConfig)
	} else {
		o.Credentials = func(_ context.Context, host string) (registry.Credential, error) {
			return registry.Credential(src.Credentials[host]), nil
		}
	}
	return o
}

const (
	politePause = 100 * time.Millisecond
	maxPause    = 10 * time.Second // a pause may not be for ever, nor a connection be idle for too long
)

// pace slows a job that nobody waits for: while containers start or readers wait for a registry, and to the rate that is
// configured. A start pauses between its reads, and would find the line full at the next.
func (f *filler) pace(driver storage.Lazy, job *fillJob) func(ctx context.Context, n int) error {
	var looked time.Time
	return func(ctx context.Context, n int) error {
		f.total.Add(int64(n))
		if rate := f.e.lazy.Rate; rate > 0 && !job.hurry.Load() {
			if err := pause(ctx, time.Duration(n)*time.Second/time.Duration(rate)); err != nil {
				return err
			}
		}
		if time.Since(looked) < politePause {
			return nil
		}
		for began := time.Now(); !job.hurry.Load() && time.Since(began) < maxPause && (f.e.startsUnderWay() || driver.Busy(ctx)); {
			if err := pause(ctx, politePause); err != nil {
				return err
			}
		}
		looked = time.Now()
		return nil
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// hurryAll waits until the layers of a namespace that match have arrived.
func (f *filler) hurryAll(ctx context.Context, matches func(fillable) bool) error {
	all, err := f.list(ctx)
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	slots := make(chan struct{}, 3)
	errs := make([]error, len(all))
	for i, l := range all {
		if !matches(l) {
			continue
		}
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			errs[i] = f.fill(ctx, l, true)
		})
	}
	group.Wait()
	return errors.Join(errs...)
}
