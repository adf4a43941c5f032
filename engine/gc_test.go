package engine

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/metadata"
)

func TestKeyLocks(t *testing.T) {
	var k keyLocks
	unlock, err := k.lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := k.try("a"); ok {
		t.Error("took a key that is held")
	}
	other, ok := k.try("b")
	if !ok {
		t.Fatal("could not take another key")
	}
	other()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.lock(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait gives %v", err)
	}
	n, wg := 0, sync.WaitGroup{}
	for range 20 {
		wg.Go(func() {
			unlock, err := k.lock(t.Context(), "a")
			if err != nil {
				t.Error(err)
				return
			}
			n++ // the race detector would tell
			unlock()
		})
	}
	unlock()
	wg.Wait()
	if n != 20 || len(k.held) != 0 {
		t.Errorf("%d had the key, %d keys are kept", n, len(k.held))
	}
}

// Deletions one after the other lead to one collection, after the last of them; a client that waits has one at once.
func TestCollectionIsDebounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &Engine{}
		e.life, e.stop = context.WithCancel(t.Context())
		g := newGC(e, time.Second, time.Hour)
		began := time.Now()
		due := make(chan time.Time)
		go func() {
			for g.next(e.life, 0) {
				for _, w := range g.takeWaiters() {
					w <- nil
				}
				due <- time.Now()
			}
			close(due)
		}()
		g.schedule()
		g.schedule()
		if at := (<-due).Sub(began); at != time.Second {
			t.Errorf("ran after %s, want the delay", at)
		}
		began = time.Now()
		if err := func() error { go func() { <-due }(); return g.scheduleOrWait(t.Context(), true) }(); err != nil || time.Since(began) != 0 {
			t.Errorf("who waits had to for %s: %v", time.Since(began), err)
		}
		synctest.Wait()
		began = time.Now()
		if at := (<-due).Sub(began); at != time.Hour {
			t.Errorf("the next run unasked came after %s, want the interval", at)
		}
		e.stop()
		if _, more := <-due; more {
			t.Error("runs after the end")
		}
		if err := g.scheduleOrWait(t.Context(), true); !errors.Is(err, errdefs.ErrUnavailable) {
			t.Errorf("a wait after the end gives %v", err)
		}
	})
}

func TestCollectionTellsOfWhatItRemoves(t *testing.T) {
	b := newBench(t)
	sc := Scope{Namespace: benchNS}
	snaps, err := b.Snapshots(sc, "fake")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := snaps.Prepare(t.Context(), "loose", "", nil); err != nil {
		t.Fatal(err)
	}
	d := digest.FromString("x")
	w, err := b.Content(sc).Open(t.Context(), "r", ocispec.Descriptor{Digest: d, Size: 1})
	if err == nil {
		_, err = w.Write([]byte("x"))
	}
	if err == nil {
		err = w.Commit(t.Context(), 1, d)
	}
	if err != nil {
		t.Fatal(err)
	}
	events, err := b.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	if err := b.gc.scheduleOrWait(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	want := map[string]Payload{"/content/delete": ContentDelete{d}, "/snapshot/remove": SnapshotRemove{"loose", "fake"}}
	for len(want) > 0 {
		ev, err := events.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if ev.Payload != want[ev.Topic] {
			t.Errorf("%s tells of %v, want %v", ev.Topic, ev.Payload, want[ev.Topic])
		}
		delete(want, ev.Topic)
	}
	if layers, err := b.driver.List(t.Context()); err != nil || len(layers) != 0 {
		t.Errorf("layers left after a collection that was waited for: %v, %v", layers, err)
	}
	if _, err := b.blobs.Info(t.Context(), d); !errdefs.IsNotFound(err) {
		t.Errorf("the blob's bytes: %v", err)
	}
}

// A layer that cannot be removed is tried again, and does not hold up others.
func TestLayersThatCannotBeRemovedAreTriedAgain(t *testing.T) {
	b := newBench(t)
	snaps, err := b.Snapshots(Scope{Namespace: benchNS}, "fake")
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, key := range []string{"busy", "free"} {
		if _, err := snaps.Prepare(t.Context(), key, "", nil); err != nil {
			t.Fatal(err)
		}
		info, err := snaps.Stat(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, info.LayerID)
	}
	var mu sync.Mutex
	busy, again := true, make(chan struct{})
	tryAgain := sync.OnceFunc(func() { close(again) })
	b.driver.Fail = func(method, id string) error {
		mu.Lock()
		defer mu.Unlock()
		if method != "Remove" || id != ids[0] {
			return nil
		}
		if busy {
			return errors.New("device is busy")
		}
		tryAgain()
		return nil
	}
	for _, key := range []string{"busy", "free"} {
		if err := snaps.Remove(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if err := snaps.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := b.driver.List(t.Context()); err != nil || len(left) != 1 || left[0] != ids[0] {
		t.Errorf("left: %v, %v", left, err)
	}
	mu.Lock()
	busy = false
	mu.Unlock()
	<-again // though nobody asks for it, nor is anything collected
	if err := snaps.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := b.driver.List(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("left after another try: %v, %v", left, err)
	}
}

// A driver that fails leaves neither a record nor a layer.
func TestPrepareUndoes(t *testing.T) {
	for _, method := range []string{"Create", "Mounts"} {
		t.Run(method, func(t *testing.T) {
			b := newBench(t)
			snaps, err := b.Snapshots(Scope{Namespace: benchNS}, "fake")
			if err != nil {
				t.Fatal(err)
			}
			full := errors.New("no space left")
			b.driver.Fail = func(m, _ string) error {
				if m == method {
					return full
				}
				return nil
			}
			if _, err := snaps.Prepare(t.Context(), "k", "", nil); !errors.Is(err, full) {
				t.Errorf("got %v", err)
			}
			if _, err := snaps.Stat(t.Context(), "k"); !errdefs.IsNotFound(err) {
				t.Errorf("the record: %v", err)
			}
			if err := snaps.Cleanup(t.Context()); err != nil {
				t.Fatal(err)
			}
			if left, err := b.driver.List(t.Context()); err != nil || len(left) != 0 {
				t.Errorf("layers left: %v, %v", left, err)
			}
		})
	}
}

// Many clients use one key at a time; the race detector and the driver's own checks tell whether calls for it overlap.
func TestOneSnapshotManyClients(t *testing.T) {
	b := newBench(t)
	snaps, err := b.Snapshots(Scope{Namespace: benchNS}, "fake")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				_, perr := snaps.Prepare(t.Context(), "k", "", nil)
				_, merr := snaps.Mounts(t.Context(), "k")
				rerr := snaps.Remove(t.Context(), "k")
				for _, err := range []error{perr, merr, rerr} {
					if err != nil && !errdefs.IsAlreadyExists(err) && !errdefs.IsNotFound(err) {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if err := snaps.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = b.db.View(t.Context(), func(tx *metadata.Tx) error {
		want, err := tx.LayerIDs("fake")
		if have, lerr := b.driver.List(t.Context()); lerr != nil || len(have) != len(want) {
			t.Errorf("%d layers, %d records: %v", len(have), len(want), lerr)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestBreatherWaitsForTheLastWork(t *testing.T) {
	b := newBreather()
	one, two := b.work(), b.work()
	one()
	if b.idle() || len(b.rest) != 0 {
		t.Error("rests while work goes on")
	}
	two()
	if !b.idle() || len(b.rest) != 1 {
		t.Error("does not rest when the last work ended")
	}
}
