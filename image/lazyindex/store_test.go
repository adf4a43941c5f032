package lazyindex

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/storage/lazyfuse/index"
)

var quiet = slog.New(slog.DiscardHandler)

func openStore(t *testing.T, dir string, limit int64) *Store {
	t.Helper()
	s, err := Open(dir, limit, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// noise is n bytes that do not compress, the same for the same seed.
func noise(seed uint64, n int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
	return b
}

// aLayer is a gzip layer with one file of n bytes, with its index.
func aLayer(t testing.TB, seed uint64, n int) (blob, document []byte, diffID digest.Digest) {
	t.Helper()
	var buf bytes.Buffer
	z, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	err = w.WriteHeader(&tar.Header{Name: fmt.Sprintf("file%d", seed), Mode: 0o644, Size: int64(n)})
	if err == nil {
		_, err = w.Write(noise(seed, n))
	}
	if err := errors.Join(err, w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	r, err := index.NewRecorder(bytes.NewReader(buf.Bytes()), index.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.Copy(r, r); err != nil {
		t.Fatal(err)
	}
	x, err := r.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), x.Marshal(), x.DiffID()
}

func name(seed uint64) digest.Digest { return digest.FromString(fmt.Sprint(seed)) }

func TestStore(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, 0)
	_, doc, _ := aLayer(t, 1, 1000)
	if _, err := s.Get(name(1)); !errdefs.IsNotFound(err) {
		t.Errorf("empty store: %v", err)
	}
	if err := s.Put(name(1), doc); err != nil {
		t.Fatal(err)
	}
	if err := s.Refuse(name(1), errors.New("no")); err != nil {
		t.Fatal(err)
	}
	if err := s.Refuse(name(2), errors.New("a sparse file")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sha256", tempPrefix+"1"), doc, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, err := s.Get(name(1)); err != nil || !bytes.Equal(got, doc) {
			t.Errorf("kept index: %v", err)
		}
		if _, err := s.Get(name(2)); !errdefs.IsNotImplemented(err) || !bytes.Contains([]byte(err.Error()), []byte("a sparse file")) {
			t.Errorf("refused: %v", err)
		}
		if s.total != int64(len(doc)+len(refusal)+len("a sparse file")) {
			t.Errorf("counts %d bytes", s.total)
		}
		s = openStore(t, dir, 0) // as after a restart
	}
	if left, err := filepath.Glob(filepath.Join(dir, "sha256", tempPrefix+"*")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	// An index in the place of a reason counts.
	if err := s.Put(name(2), doc); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(name(2)); err != nil {
		t.Error(err)
	}
	for _, bad := range []digest.Digest{"", "sha256:../../x", digest.SHA512.FromString("x")} {
		if err := s.Put(bad, doc); err == nil {
			t.Errorf("keeps an index of %q", bad)
		}
		if _, err := s.Get(bad); err == nil {
			t.Errorf("has an index of %q", bad)
		}
	}
}

// TestDamaged damages an index in each way that a disk may.
func TestDamaged(t *testing.T) {
	_, doc, _ := aLayer(t, 1, 1000)
	flipped := bytes.Clone(doc)
	flipped[len(doc)/2] ^= 1
	for what, data := range map[string][]byte{"empty": {}, "short": doc[:len(doc)-1], "flipped": flipped, "zeros": make([]byte, len(doc))} {
		dir := t.TempDir()
		s := openStore(t, dir, 0)
		if err := s.Put(name(1), doc); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "sha256", name(1).Encoded())
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(name(1)); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := os.Stat(file); err == nil || s.Has(name(1)) || s.total != 0 {
			t.Errorf("%s: it is still there", what)
		}
	}
}

func TestEvict(t *testing.T) {
	dir := t.TempDir()
	_, doc, _ := aLayer(t, 1, 1000)
	limit := int64(10 * len(doc))
	s := openStore(t, dir, limit)
	put := func(n uint64) {
		t.Helper()
		if err := s.Put(name(n), doc); err != nil {
			t.Fatal(err)
		}
	}
	for n := range uint64(10) {
		put(n)
	}
	if _, err := s.Get(name(0)); err != nil {
		t.Fatal(err)
	}
	put(10) // 1 is now the one that was used least recently
	for n := range uint64(11) {
		if want := n != 1; s.Has(name(n)) != want {
			t.Errorf("index %d is here: %v", n, !want)
		}
	}
	if s.total > limit {
		t.Errorf("%d bytes, more than %d", s.total, limit)
	}
	for n := range uint64(10) { // file times can be too coarse to tell these from the last
		file, err := s.path(name(n))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, time.Time{}, time.Unix(int64(n), 0)); err != nil && n != 1 {
			t.Fatal(err)
		}
	}
	if s = openStore(t, dir, limit/2); s.total > limit/2 || len(s.kept) != 5 || !s.Has(name(10)) {
		t.Errorf("after a restart with half the space %d bytes in %d indexes", s.total, len(s.kept))
	}
	if err := s.Put(name(11), make([]byte, limit)); !errdefs.IsOutOfRange(err) {
		t.Errorf("an index larger than the store: %v", err)
	}
}
