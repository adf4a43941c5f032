package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/slipwayd/slipway/storage/lazyfuse/spans"
)

func open(t testing.TB, dir string, opts Options) *Cache {
	t.Helper()
	if opts.Reserve == 0 {
		opts.Reserve = -1
	}
	if opts.SyncEvery == 0 {
		opts.SyncEvery = time.Hour // tests call Sync
	}
	c, err := Open(dir, opts)
	if errdefs.IsNotImplemented(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// body is what the content called name holds.
func body(name string, size int) []byte {
	var seed [32]byte
	copy(seed[:], name)
	p := make([]byte, size)
	_, _ = rand.NewChaCha8(seed).Read(p)
	return p
}

func keyOf(name string, size int) Key { return FileKey(digest.FromString(name), int64(size)) }

func acquire(t testing.TB, c *Cache, name string, size int) *Entry {
	t.Helper()
	e, err := c.Acquire(keyOf(name, size), int64(size))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func write(t testing.TB, e *Entry, name string, from, to int) {
	t.Helper()
	if n, err := e.WriteAt(body(name, int(e.Size()))[from:to], int64(from)); err != nil || n != to-from {
		t.Fatalf("write %s [%d,%d): %d, %v", name, from, to, n, err)
	}
}

// check reads all that an entry has, wants it to be right, and answers how many bytes that is.
func check(t testing.TB, e *Entry, name string) (n int) {
	t.Helper()
	want := body(name, int(e.Size()))
	buf := make([]byte, 1000)
	for off := 0; off < len(want); {
		got, err := e.ReadAt(buf, int64(off))
		if errors.Is(err, ErrMissing) {
			off++
			continue
		}
		if err != nil || got == 0 {
			t.Errorf("read %s at %d: %d, %v", name, off, got, err)
			return n
		}
		if !bytes.Equal(buf[:got], want[off:off+got]) {
			t.Errorf("wrong bytes of %s at %d", name, off)
			return n
		}
		off += got
		n += got
	}
	return n
}

func TestReadWrite(t *testing.T) {
	c := open(t, t.TempDir(), Options{})
	e := acquire(t, c, "a", 10_000)
	defer e.Release()
	if _, err := e.ReadAt(make([]byte, 1), 0); !errdefs.IsNotFound(err) {
		t.Fatalf("read of nothing: %v", err)
	}
	write(t, e, "a", 100, 5000)
	write(t, e, "a", 4000, 6000) // overlaps
	write(t, e, "a", 9000, 10_000)
	for _, tt := range []struct {
		off  int64
		size int
		n    int
		err  error
	}{
		{0, 10, 0, ErrMissing},
		{100, 10, 10, nil},
		{5990, 100, 10, nil}, // up to the gap
		{6000, 1, 0, ErrMissing},
		{9990, 100, 10, nil}, // up to the end
		{10_000, 1, 0, io.EOF},
		{20_000, 1, 0, io.EOF},
		{-1, 1, 0, errdefs.ErrInvalidArgument},
	} {
		p := make([]byte, tt.size)
		n, err := e.ReadAt(p, tt.off)
		if n != tt.n || !errors.Is(err, tt.err) {
			t.Errorf("read %d at %d: %d, %v", tt.size, tt.off, n, err)
		}
		if n > 0 && !bytes.Equal(p[:n], body("a", 10_000)[tt.off:][:n]) {
			t.Errorf("wrong bytes at %d", tt.off)
		}
	}
	want := fmt.Sprint([]Range{{0, 100}, {6000, 3000}})
	if got := fmt.Sprint(e.Missing(0, 1<<40)); got != want {
		t.Errorf("missing %s, want %s", got, want)
	}
	if f, err := e.Complete(); f != nil || err != nil {
		t.Errorf("complete with gaps: %v, %v", f, err)
	}
	for _, s := range []spans.Span{{Off: -1}, {Off: 9999, End: 10_001}, {Off: 1 << 62, End: 1<<62 + 1}} {
		if _, err := e.WriteAt(make([]byte, s.End-s.Off), s.Off); !errdefs.IsOutOfRange(err) {
			t.Errorf("write at %d: %v", s.Off, err)
		}
	}
	write(t, e, "a", 0, 100)
	write(t, e, "a", 6000, 9000)
	if n := check(t, e, "a"); n != 10_000 || e.Missing(0, 10_000) != nil {
		t.Errorf("%d bytes, missing %v", n, e.Missing(0, 10_000))
	}
	f, err := e.Complete()
	if err != nil || f == nil {
		t.Fatalf("complete: %v, %v", f, err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, body("a", 10_000)) {
		t.Errorf("complete file differs: %v", err)
	}
	if _, err := f.Write([]byte("x")); err == nil {
		t.Error("the complete file can be written")
	}
}

func TestKeys(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	seen := map[Key]string{}
	for name, key := range map[string]Key{
		"file":           FileKey(a, 1),
		"other size":     FileKey(a, 2),
		"other file":     FileKey(b, 1),
		"node":           NodeKey(a, 1, 1),
		"other node":     NodeKey(a, 2, 1),
		"chunks":         ChunksKey([]Chunk{{1, a}, {1, b}}),
		"other order":    ChunksKey([]Chunk{{1, b}, {1, a}}),
		"other division": ChunksKey([]Chunk{{2, a}, {1, b}}),
		"none":           ChunksKey(nil),
	} {
		if other, ok := seen[key]; ok {
			t.Errorf("%s and %s have the same key", name, other)
		}
		seen[key] = name
		if back, ok := parseKey(key.String()); !ok || back != key {
			t.Errorf("%s does not parse", key)
		}
	}
	if ChunksKey([]Chunk{{1, a}}) != FileKey(a, 1) {
		t.Error("a file of one chunk is another content")
	}
	for _, name := range []string{"", "lost+found", FileKey(a, 1).String()[1:] + "G", "A" + FileKey(a, 1).String()[1:]} {
		if _, ok := parseKey(name); ok {
			t.Errorf("%q is taken for a key", name)
		}
	}
}

// TestReopen closes a cache, or leaves it as a killed process would, and opens it again.
func TestReopen(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, Options{})
	if _, err := Open(dir, Options{}); !errdefs.IsUnavailable(err) {
		t.Fatalf("opened twice: %v", err)
	}
	inode := func(c *Cache) uint64 {
		e := acquire(t, c, "full", 5000)
		defer e.Release()
		f, err := e.Complete()
		if err != nil || f == nil {
			t.Fatalf("complete: %v, %v", f, err)
		}
		defer f.Close()
		return inodeOf(t, f)
	}
	full, part := acquire(t, c, "full", 5000), acquire(t, c, "part", 5000)
	write(t, full, "full", 0, 5000)
	write(t, part, "part", 1000, 2000)
	before := inode(c)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Acquire(Key{}, 1); !errdefs.IsUnavailable(err) {
		t.Errorf("acquired of a closed cache: %v", err)
	}

	c = open(t, dir, Options{})
	if st := c.Stats(); st.Entries != 2 || st.Bytes != 3*4096 || st.Idle != st.Bytes {
		t.Errorf("opened with %+v", st)
	}
	part = acquire(t, c, "part", 5000)
	if n := check(t, part, "part"); n != 1000 {
		t.Errorf("%d bytes of the part", n)
	}
	write(t, part, "part", 3000, 4000)
	if n := check(t, part, "part"); n != 2000 || inode(c) != before {
		t.Errorf("%d bytes of the part; inode %d, was %d", n, inode(c), before)
	}
	if _, err := c.Find(keyOf("nothing", 1)); !errdefs.IsNotFound(err) {
		t.Errorf("found what is not there: %v", err)
	}
}

// TestDamage opens a cache whose files others have damaged: what is lost is missing, the rest stays.
// TestDiscard forgets a content and takes it in again, now and after reopening.
// TestConcurrent has many readers, writers, syncs and evictions at work; the race detector and the bytes judge.
func TestConcurrent(t *testing.T) {
	c := open(t, t.TempDir(), Options{Quota: 300_000, OpenFiles: 4, SyncEvery: time.Millisecond, Failed: func(err error) { t.Error(err) }})
	const size = 20_000
	bodies := map[string][]byte{}
	for i := range 30 {
		bodies[fmt.Sprint(i)] = body(fmt.Sprint(i), size)
	}
	var work errgroup.Group
	for worker := range 8 {
		work.Go(func() error {
			r := rand.New(rand.NewPCG(1, uint64(worker)))
			buf := make([]byte, 5000)
			for range 300 {
				name := fmt.Sprint(r.IntN(30))
				e, err := c.Acquire(keyOf(name, size), size)
				if err != nil {
					return err
				}
				off := r.IntN(size)
				n, err := e.ReadAt(buf, int64(off))
				switch {
				case errors.Is(err, ErrMissing):
					part := bodies[name][off:min(size, off+5000)]
					if _, err := e.WriteAt(part, int64(off)); err != nil && !errors.Is(err, ErrNoSpace) {
						return err
					}
				case err != nil:
					return err
				case !bytes.Equal(buf[:n], bodies[name][off:off+n]):
					return fmt.Errorf("wrong bytes of %s at %d", name, off)
				}
				if f, err := e.Complete(); err != nil {
					return err
				} else if f != nil {
					f.Close()
				}
				e.Release()
			}
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := c.Sync(); err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, e := range c.entries {
		sum += e.charge()
	}
	if st := c.Stats(); st.Bytes != sum || st.Idle != sum || st.Evicted == 0 {
		t.Errorf("%+v, counted %d", st, sum)
	}
}

// TestOpenFiles touches many contents: few descriptors stay open, and all can be read.
func TestOpenFiles(t *testing.T) {
	c := open(t, t.TempDir(), Options{OpenFiles: 4})
	var entries []*Entry
	for i := range 40 {
		e := acquire(t, c, fmt.Sprint(i), 100)
		write(t, e, fmt.Sprint(i), 0, 100)
		entries = append(entries, e)
	}
	if err := c.Sync(); err != nil { // until then they stay open
		t.Fatal(err)
	}
	for i := range 3 { // those used since the last look stay once
		write(t, acquire(t, c, fmt.Sprint("more", i), 100), fmt.Sprint("more", i), 0, 100)
	}
	for round := range 2 {
		open := 0
		for _, e := range c.entries {
			if e.file != nil {
				open++
			}
		}
		if open > 4+3 {
			t.Errorf("round %d: %d descriptors open", round, open)
		}
		for i, e := range entries {
			if n := check(t, e, fmt.Sprint(i)); n != 100 {
				t.Errorf("%d bytes of %d", n, i)
			}
		}
	}
}

// TestSyncsBehind has writers wait for a sync when many are due, and give up when that does not help.
// TestSyncFailure loses what could not be synced, and nothing else.
