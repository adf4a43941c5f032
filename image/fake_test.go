package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/testsuite"
)

// fakeStore is a content store with labels.
type fakeStore struct {
	content.Store
	mu     sync.Mutex
	labels map[digest.Digest]map[string]string
}

func newStore() *fakeStore { return storeOn(testsuite.NewMemoryContent()) }

func storeOn(s content.Store) *fakeStore {
	return &fakeStore{Store: s, labels: map[digest.Digest]map[string]string{}}
}

func (s *fakeStore) Writer(ctx context.Context, ref string, desc ocispec.Descriptor, labels map[string]string) (content.Writer, error) {
	w, err := s.Store.Writer(ctx, ref, desc)
	if err != nil {
		return nil, err
	}
	return &labelWriter{Writer: w, store: s, labels: labels}, nil
}

type labelWriter struct {
	content.Writer
	store  *fakeStore
	labels map[string]string
}

func (w *labelWriter) Commit(ctx context.Context, size int64, expected digest.Digest) error {
	got := w.Digest()
	if err := w.Writer.Commit(ctx, size, expected); err != nil {
		return err
	}
	return w.store.SetLabels(ctx, got, w.labels)
}

func (s *fakeStore) Abort(ctx context.Context, ref string) error {
	if err := s.Store.Abort(ctx, ref); !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

func (s *fakeStore) Labels(ctx context.Context, dgst digest.Digest) (map[string]string, error) {
	if _, err := s.Info(ctx, dgst); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.labels[dgst]), nil
}

func (s *fakeStore) SetLabels(ctx context.Context, dgst digest.Digest, labels map[string]string) error {
	if _, err := s.Info(ctx, dgst); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.labels[dgst] == nil {
		s.labels[dgst] = map[string]string{}
	}
	for k, v := range labels {
		if s.labels[dgst][k] = v; v == "" {
			delete(s.labels[dgst], k)
		}
	}
	return nil
}

func (s *fakeStore) count(t *testing.T) int {
	t.Helper()
	n := 0
	if err := s.Walk(context.Background(), func(content.Blob) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

// fakeLayers keeps names of files. It fails on anything that would be wrong with a real driver.
type fakeLayers struct {
	independent bool

	mu        sync.Mutex
	committed map[digest.Digest][]string // files by chain ID
	order     []int                      // indexes as they were committed
	staged    int                        // not ended yet
	applying  chan int                   // told the index before Apply reads, when not nil
}

func newLayers() *fakeLayers {
	return &fakeLayers{independent: true, committed: map[digest.Digest][]string{}}
}

func (f *fakeLayers) Driver() string    { return "fake" }
func (f *fakeLayers) Independent() bool { return f.independent }

func (f *fakeLayers) Has(_ context.Context, chain digest.Digest) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.committed[chain]
	return ok, nil
}

func (f *fakeLayers) Stage(_ context.Context, l Layer) (Staged, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.committed[l.Parent]; !f.independent && l.Parent != "" && !ok {
		return nil, fmt.Errorf("parent of layer %d is not committed: %w", l.Index, errdefs.ErrFailedPrecondition)
	}
	f.staged++
	return &fakeStaged{to: f, layer: l}, nil
}

type fakeStaged struct {
	to    *fakeLayers
	layer Layer
	files []string
}

func (s *fakeStaged) Apply(_ context.Context, diff io.Reader) error {
	if s.to.applying != nil {
		s.to.applying <- s.layer.Index
	}
	for r := tar.NewReader(diff); ; {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return errors.Join(err, errdefs.ErrInvalidArgument)
		}
		s.files = append(s.files, h.Name)
	}
}

func (s *fakeStaged) Commit(context.Context) error {
	s.to.mu.Lock()
	defer s.to.mu.Unlock()
	if _, ok := s.to.committed[s.layer.Parent]; s.layer.Parent != "" && !ok {
		return errors.New("committed before its parent")
	}
	s.to.committed[s.layer.Chain] = s.files
	s.to.order = append(s.to.order, s.layer.Index)
	s.to.staged--
	return nil
}

func (s *fakeStaged) Abort(ctx context.Context) error {
	if ctx.Err() != nil {
		return errors.New("aborted with a context that is done")
	}
	s.to.mu.Lock()
	defer s.to.mu.Unlock()
	s.to.staged--
	return nil
}
