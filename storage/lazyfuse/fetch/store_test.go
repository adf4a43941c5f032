package fetch

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
)

// fetched counts the bytes that were asked for.
func (f *source) fetched() (n int64) {
	for _, c := range f.requests() {
		n += c.length
	}
	return n
}

// TestStore reads all of a blob twice, all over it and by many, with less memory than it has bytes: each comes once.
func TestStore(t *testing.T) { synctest.Test(t, testStore) }

func testStore(t *testing.T) {
	f := newSource(8 * mib)
	s, b := begin(t, f, Options{Memory: 2 * mib, Dir: t.TempDir()})
	for range 2 {
		var readers errgroup.Group
		for i := range 6 {
			readers.Go(func() error {
				order := rand.New(rand.NewPCG(1, uint64(i))).Perm(8 * 4)
				for _, at := range order {
					if err := read(b, f, Class(i)%classes, at*mib/4, mib/4); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := readers.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.fetched(); n != int64(len(f.data)) {
		t.Errorf("%d bytes were fetched of %d", n, len(f.data))
	}
	synctest.Wait()
	if st := s.Stats(); st.Disk != int64(len(f.data)) || st.Memory != 0 {
		t.Errorf("%+v", st)
	}
	b.Close()
	synctest.Wait()
	if st := s.Stats(); st.Disk != 0 {
		t.Errorf("%d bytes are stored of a closed blob", st.Disk)
	}
}

// TestStoreHoles has the background go over what readers have fetched here and there.
func TestStoreHoles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newSource(16 * mib)
		_, b := begin(t, f, Options{Dir: t.TempDir()})
		mustRead(t, b, f, Profile, 2*mib, smallest-1) // asked for again: it is not worth a request
		mustRead(t, b, f, Profile, 5*mib, smallest)
		mustRead(t, b, f, Profile, 9*mib, 3*mib)
		synctest.Wait()
		before := len(f.requests())
		mustRead(t, b, f, Background, 0, 16*mib)
		if n := f.fetched(); n != 16*mib+smallest-1 {
			t.Errorf("%d bytes were fetched", n)
		}
		if n := len(f.requests()) - before; n > 9 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestDiscard forgets what is wrong, wherever it is, and nothing else.
func TestDiscard(t *testing.T) {
	for _, stored := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			f := newSource(4 * mib)
			var o Options
			if stored {
				o.Dir = t.TempDir()
			}
			_, b := begin(t, f, o)
			mustRead(t, b, f, Profile, 0, 2*mib)
			synctest.Wait()  // until it is stored
			f.data[mib] ^= 1 // what is right now
			b.Discard(mib, 100)
			mustRead(t, b, f, Profile, mib, 100)
			mustRead(t, b, f, Profile, 0, mib)
			want := 2*mib + 100
			if !stored {
				want += 2*mib - 100 // the whole range was forgotten
			}
			if n := f.fetched(); n > int64(want) {
				t.Errorf("stored %t: %d bytes were fetched, want %d", stored, n, want)
			}

			// Somebody waits for what is discarded.
			var g *gate
			f.set(func(ctx context.Context, n int, whole []byte) (io.ReadCloser, error) {
				f.set(nil)
				g = newGate(ctx, whole)
				return g, nil
			})
			var waiting errgroup.Group
			waiting.Go(func() error { return read(b, f, Foreground, 3*mib, 100) })
			synctest.Wait()
			b.Discard(3*mib, 1)
			if err := waiting.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestStoreRefuses: without room, or when the file cannot be had, memory does.
func TestStoreRefuses(t *testing.T) { synctest.Test(t, testStoreRefuses) }

func testStoreRefuses(t *testing.T) {
	for name, o := range map[string]Options{
		"no room":   {Dir: t.TempDir(), Room: func(int64) bool { return false }},
		"too much":  {Dir: t.TempDir(), Disk: 1},
		"no folder": {Dir: filepath.Join(t.TempDir(), "none")},
	} {
		f := newSource(4 * mib)
		s, b := begin(t, f, o)
		for range 2 {
			mustRead(t, b, f, Foreground, 0, 4*mib)
		}
		synctest.Wait()
		if st := s.Stats(); st.Disk != 0 || f.fetched() != 4*mib {
			t.Errorf("%s: %+v, %d fetched", name, st, f.fetched())
		}
	}
}

// TestStoreFails: a disk that fails makes bytes be fetched again.
func TestStoreFails(t *testing.T) { synctest.Test(t, testStoreFails) }

func testStoreFails(t *testing.T) {
	f := newSource(4 * mib)
	_, b := begin(t, f, Options{Dir: t.TempDir()})
	mustRead(t, b, f, Foreground, 0, mib)
	for range 2 { // of reading, then of writing
		synctest.Wait()
		b.s.mu.Lock()
		if b.stored.file != nil {
			_ = b.stored.file.Close()
		}
		b.s.mu.Unlock()
		mustRead(t, b, f, Foreground, 0, 4*mib)
	}
	mustRead(t, b, f, Foreground, 0, 4*mib)
}

// local is a fetcher that may deliver from this host.
type local struct {
	*source
	here bool
}

func (l *local) Here() bool { return l.here }

// TestLocal: what is here is not stored, and what was before is given up.
func TestLocal(t *testing.T) { synctest.Test(t, testLocal) }

func testLocal(t *testing.T) {
	f := &local{source: newSource(4 * mib)}
	dir := t.TempDir()
	s := New(Options{Dir: dir})
	defer s.Close()
	b := s.Blob("registry", f.desc(), f)
	mustRead(t, b, f.source, Foreground, 0, 2*mib)
	synctest.Wait()
	s.Trim()
	mustRead(t, b, f.source, Foreground, 0, 2*mib)
	if n := f.fetched(); n != 2*mib {
		t.Errorf("%d bytes were fetched", n)
	}
	f.here = true
	s.Trim()
	mustRead(t, b, f.source, Foreground, 0, 4*mib)
	synctest.Wait()
	if st := s.Stats(); st.Disk != 0 {
		t.Errorf("%+v", st)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		t.Errorf("left: %v, %v", names, err)
	}
}

// TestNotSatisfiable: a 416 is asked again, and told as what it is when it stays.
func TestNotSatisfiable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newSource(4 * mib)
		_, b := begin(t, f, Options{})
		refuse := maxBad - 1
		f.set(func(_ context.Context, _ int, whole []byte) (io.ReadCloser, error) {
			if refuse--; refuse >= 0 {
				return nil, fmt.Errorf("416: %w", errdefs.ErrOutOfRange)
			}
			return good(whole), nil
		})
		mustRead(t, b, f, Foreground, 0, 10)
		refuse = maxBad
		if err := read(b, f, Foreground, 2*mib, 10); !errdefs.IsDataLoss(err) {
			t.Error(err)
		}
		mustRead(t, b, f, Foreground, 2*mib, 10)
	})
}
