package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/testsuite"
)

// A killed daemon is simulated by stopping every goroutine of its engine for ever at one step, before or after something is
// done to the disk, and starting another engine on what is there at that moment.

// crasher counts steps and dies at one of them.
type crasher struct {
	at   int           // 0 for never
	died chan struct{} // closed at the step
	end  chan struct{} // closed with the test

	mu    sync.Mutex
	steps []string
}

func (c *crasher) step(name string) {
	c.mu.Lock()
	c.steps = append(c.steps, name)
	n := len(c.steps)
	c.mu.Unlock()
	if c.at == 0 || n < c.at {
		return
	}
	if n == c.at {
		close(c.died)
	}
	<-c.end
	runtime.Goexit()
}

func (c *crasher) seen() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.steps)
}

// around steps before and after fn.
func (c *crasher) around(name string, fn func() error) error {
	c.step("before " + name)
	err := fn()
	c.step("after " + name)
	return err
}

type crashDriver struct {
	*testsuite.FakeDriver
	c *crasher
}

func (d crashDriver) Create(ctx context.Context, l storage.Layer) error {
	return d.c.around("Create", func() error { return d.FakeDriver.Create(ctx, l) })
}

func (d crashDriver) Seal(ctx context.Context, l storage.Layer) (u storage.Usage, err error) {
	err = d.c.around("Seal", func() error { u, err = d.FakeDriver.Seal(ctx, l); return err })
	return u, err
}

func (d crashDriver) Remove(ctx context.Context, id string) error {
	return d.c.around("Remove", func() error { return d.FakeDriver.Remove(ctx, id) })
}

type crashStore struct {
	content.Store
	c *crasher
}

func (s crashStore) Writer(ctx context.Context, ref string, desc ocispec.Descriptor) (w content.Writer, err error) {
	err = s.c.around("Writer", func() error { w, err = s.Store.Writer(ctx, ref, desc); return err })
	return crashWriter{w, s.c}, err
}

func (s crashStore) Delete(ctx context.Context, d digest.Digest) error {
	return s.c.around("Delete", func() error { return s.Store.Delete(ctx, d) })
}

func (s crashStore) Abort(ctx context.Context, ref string) error {
	return s.c.around("Abort", func() error { return s.Store.Abort(ctx, ref) })
}

type crashWriter struct {
	content.Writer
	c *crasher
}

func (w crashWriter) Commit(ctx context.Context, size int64, d digest.Digest) error {
	return w.c.around("Commit", func() error { return w.Writer.Commit(ctx, size, d) })
}

// machine is what outlives a daemon.
type machine struct {
	dir     string
	content string // directory
	driver  *testsuite.FakeDriver
	tasks   *taskTable
}

func newMachine(t *testing.T) *machine {
	return &machine{dir: t.TempDir(), content: t.TempDir(), driver: testsuite.NewFakeDriver(), tasks: newTaskTable()}
}

// boot starts an engine on the machine; c may be nil.
func (m *machine) boot(t *testing.T, c *crasher) *Engine {
	t.Helper()
	db, err := metadata.Open(filepath.Join(m.dir, "metadata.db"), metadata.Options{})
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := content.Open(m.content)
	if err != nil {
		t.Fatal(err)
	}
	p := Parts{
		DB: db, Content: blobs, Drivers: map[string]storage.Driver{"fake": m.driver}, DefaultDriver: "fake",
		Tasks: m.tasks, Root: filepath.Join(m.dir, "root"), State: filepath.Join(m.dir, "state"),
	}
	if c != nil {
		p.Content, p.Drivers["fake"] = crashStore{blobs, c}, crashDriver{m.driver, c}
	}
	e, err := New(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e
}

// kill answers the machine as it is, with a copy of the metadata file that the dead engine has no hold on.
func (m *machine) kill(t *testing.T) *machine {
	t.Helper()
	next := *m
	next.dir = t.TempDir()
	data, err := os.ReadFile(filepath.Join(m.dir, "metadata.db"))
	if err == nil {
		err = os.WriteFile(filepath.Join(next.dir, "metadata.db"), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &next
}

const crashNS = "ns"

// scene is something that a client asks for, with what was there before.
type scene struct {
	before func(*testing.T, *Engine)
	verb   func(context.Context, *Engine) error
	after  func(*testing.T, *Engine) // once more, by the next daemon: it must lead to the same end
}

func crashSnapshots(e *Engine) *Snapshots {
	s, err := e.Snapshots(Scope{Namespace: crashNS}, "fake")
	if err != nil {
		panic(err)
	}
	return s
}

func writeBlob(ctx context.Context, e *Engine, data string, labels map[string]string) error {
	d := digest.FromString(data)
	w, err := e.Content(Scope{Namespace: crashNS}).Open(ctx, "ref", ocispec.Descriptor{Digest: d, Size: int64(len(data))})
	if err != nil {
		return err
	}
	defer w.Close()
	st, err := w.Status()
	if err == nil {
		_, err = io.WriteString(w, data[st.Offset:])
	}
	if err != nil {
		return err
	}
	return w.CommitLabels(ctx, int64(len(data)), d, labels)
}

// ignore is nil for an error of a verb that the last daemon may have finished.
func ignore(err error, kinds ...error) error {
	for _, k := range kinds {
		if errors.Is(err, k) {
			return nil
		}
	}
	return err
}

func scenes() map[string]scene {
	prepare := func(ctx context.Context, e *Engine) error {
		_, err := crashSnapshots(e).Prepare(ctx, "k", "", nil)
		return err
	}
	ok := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	image := func(t *testing.T, e *Engine) {
		ok(t, prepare(t.Context(), e))
		ok(t, crashSnapshots(e).Commit(t.Context(), "layer", "k", nil, ""))
		labels := map[string]string{"containerd.io/gc.ref.snapshot.fake": "layer"}
		ok(t, writeBlob(t.Context(), e, "blob", labels))
		_, err := e.CreateImage(t.Context(), Scope{Namespace: crashNS}, metadata.Image{Name: "img", Target: ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("blob"), Size: 4,
		}})
		ok(t, err)
	}
	remove := func(ctx context.Context, e *Engine) error {
		return errors.Join(crashSnapshots(e).Remove(ctx, "k"), crashSnapshots(e).Cleanup(ctx))
	}
	return map[string]scene{
		"prepare": {verb: prepare, after: func(t *testing.T, e *Engine) {
			// The client never had an answer: it asks again, or makes do with what is there.
			ok(t, ignore(prepare(t.Context(), e), errdefs.ErrAlreadyExists))
			_, err := crashSnapshots(e).Mounts(t.Context(), "k")
			ok(t, err)
		}},
		"commit": {
			before: func(t *testing.T, e *Engine) { ok(t, prepare(t.Context(), e)) },
			verb:   func(ctx context.Context, e *Engine) error { return crashSnapshots(e).Commit(ctx, "n", "k", nil, "") },
			after: func(t *testing.T, e *Engine) {
				ok(t, ignore(crashSnapshots(e).Commit(t.Context(), "n", "k", nil, ""), errdefs.ErrNotFound))
				_, err := crashSnapshots(e).Stat(t.Context(), "n")
				ok(t, err)
			},
		},
		"remove": {
			before: func(t *testing.T, e *Engine) { ok(t, prepare(t.Context(), e)) },
			verb:   remove,
			after:  func(t *testing.T, e *Engine) { ok(t, ignore(remove(t.Context(), e), errdefs.ErrNotFound)) },
		},
		"write": {
			verb: func(ctx context.Context, e *Engine) error { return writeBlob(ctx, e, "data", nil) },
			after: func(t *testing.T, e *Engine) {
				ok(t, ignore(writeBlob(t.Context(), e, "data", nil), errdefs.ErrAlreadyExists))
				_, err := e.Content(Scope{Namespace: crashNS}).Info(t.Context(), digest.FromString("data"))
				ok(t, err)
			},
		},
		"abort": {
			before: func(t *testing.T, e *Engine) {
				w, err := e.Content(Scope{Namespace: crashNS}).Open(t.Context(), "ref", ocispec.Descriptor{})
				ok(t, err)
				_, err = io.Copy(w, bytes.NewReader([]byte("abc")))
				ok(t, errors.Join(err, w.Close()))
			},
			verb: func(ctx context.Context, e *Engine) error {
				return e.Content(Scope{Namespace: crashNS}).Abort(ctx, "ref")
			},
			after: func(t *testing.T, e *Engine) {
				ok(t, ignore(e.Content(Scope{Namespace: crashNS}).Abort(t.Context(), "ref"), errdefs.ErrNotFound))
			},
		},
		"delete blob": {
			before: func(t *testing.T, e *Engine) { ok(t, writeBlob(t.Context(), e, "data", nil)) },
			verb: func(ctx context.Context, e *Engine) error {
				return e.Content(Scope{Namespace: crashNS}).Delete(ctx, digest.FromString("data"))
			},
			after: func(t *testing.T, e *Engine) {
				ok(t, ignore(e.Content(Scope{Namespace: crashNS}).Delete(t.Context(), digest.FromString("data")), errdefs.ErrNotFound))
			},
		},
		"delete image": {
			before: image,
			verb:   func(ctx context.Context, e *Engine) error { return e.DeleteImage(ctx, crashNS, "img", nil, true) },
			after: func(t *testing.T, e *Engine) {
				ok(t, ignore(e.DeleteImage(t.Context(), crashNS, "img", nil, true), errdefs.ErrNotFound))
				ok(t, e.gc.scheduleOrWait(t.Context(), true))
				if _, err := crashSnapshots(e).Stat(t.Context(), "layer"); !errdefs.IsNotFound(err) {
					t.Errorf("the image's layer is kept: %v", err)
				}
			},
		},
	}
}

func TestKilledAtEachStep(t *testing.T) {
	for name, s := range scenes() {
		t.Run(name, func(t *testing.T) {
			steps := runScene(t, s, 0)
			if len(steps) == 0 {
				t.Fatal("the verb touches nothing that a crash could interrupt")
			}
			for i := range steps {
				t.Run(fmt.Sprintf("%d %s", i+1, steps[i]), func(t *testing.T) { runScene(t, s, i+1) })
			}
		})
	}
}

// runScene plays a scene that dies at a step (0 for none) and answers the steps of its verb.
func runScene(t *testing.T, s scene, at int) []string {
	m := newMachine(t)
	if s.before != nil {
		e := m.boot(t, nil)
		s.before(t, e)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	c := &crasher{at: at, died: make(chan struct{}), end: make(chan struct{})}
	old := m.boot(t, c)
	done := make(chan error, 1)
	go func() { done <- s.verb(context.Background(), old) }()
	if at == 0 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := old.Close(); err != nil {
			t.Fatal(err)
		}
	} else {
		<-c.died
		t.Cleanup(func() {
			close(c.end)
			_ = old.Close()
		})
	}
	next := m.kill(t)
	e := next.boot(t, nil)
	defer e.Close()
	next.check(t, e)
	s.after(t, e)
	next.check(t, e)
	return c.seen()
}

// check fails unless records, layers and blobs tell the same.
func (m *machine) check(t *testing.T, e *Engine) {
	t.Helper()
	ctx := t.Context()
	e.sweepBlobs(ctx)
	if err := crashSnapshots(e).Cleanup(ctx); err != nil {
		t.Fatal(err)
	}
	var want struct {
		layers map[string]metadata.Owner
		blobs  map[digest.Digest]struct{}
		refs   map[string]metadata.Owner
	}
	err := e.db.View(ctx, func(tx *metadata.Tx) (err error) {
		if want.layers, err = tx.LayerIDs("fake"); err != nil {
			return err
		}
		if want.blobs, err = tx.Digests(); err != nil {
			return err
		}
		want.refs, err = tx.StoreRefs()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	layers, err := m.driver.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "layers", layers, want.layers)
	var blobs []digest.Digest
	if err := e.blobs.Walk(ctx, func(b content.Blob) error { blobs = append(blobs, b.Digest); return nil }); err != nil {
		t.Fatal(err)
	}
	compare(t, "blobs", blobs, want.blobs)
	ingests, err := e.blobs.Ingests(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range ingests { // a record without an ingest is one that is not begun
		if _, ok := want.refs[in.Ref]; !ok {
			t.Errorf("ingest %s has no record", in.Ref)
		}
	}
}

func compare[K ~string, V any](t *testing.T, what string, have []K, want map[K]V) {
	t.Helper()
	var extra []string
	for _, k := range have {
		if _, ok := want[k]; !ok {
			extra = append(extra, string(k))
		}
	}
	if len(extra) > 0 {
		t.Errorf("%s without a record: %s", what, strings.Join(extra, ", "))
	}
	if len(have)-len(extra) != len(want) {
		t.Errorf("%d records of %s, but only %d are there", len(want), what, len(have)-len(extra))
	}
}
