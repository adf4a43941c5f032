package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
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
	for _, s := range []span{{-1, 0}, {9999, 10_001}, {1 << 62, 1<<62 + 1}} {
		if _, err := e.WriteAt(make([]byte, s.end-s.off), s.off); !errdefs.IsOutOfRange(err) {
			t.Errorf("write at %d: %v", s.off, err)
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
func TestDamage(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"gone":      os.Remove,
		"cut":       func(path string) error { return os.Truncate(path, 4096) },
		"grown":     func(path string) error { return os.Truncate(path, 10_000) },
		"directory": func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c := open(t, dir, Options{})
			for _, name := range []string{"victim", "other"} {
				e := acquire(t, c, name, 5000)
				write(t, e, name, 0, 5000)
				e.Release()
			}
			path := filepath.Join(dir, "data", keyOf("victim", 5000).String()[:2], keyOf("victim", 5000).String())
			if err := errors.Join(c.Close(), damage(path)); err != nil {
				t.Fatal(err)
			}
			c = open(t, dir, Options{})
			e := acquire(t, c, "victim", 5000)
			_, err := e.ReadAt(make([]byte, 1), 0)
			if name == "directory" {
				if err == nil {
					t.Error("read a directory")
				}
				return
			}
			if !errdefs.IsNotFound(err) {
				t.Fatalf("read of a damaged file: %v", err)
			}
			write(t, e, "victim", 0, 100)
			if n := check(t, e, "victim"); n != 100 {
				t.Errorf("%d bytes", n)
			}
			other := acquire(t, c, "other", 5000)
			if n := check(t, other, "other"); n != 5000 {
				t.Errorf("%d bytes of the other", n)
			}
			if used := c.Stats().Bytes; used != 3*4096 {
				t.Errorf("%d bytes used", used)
			}
		})
	}
}

// TestDiscard forgets a content and takes it in again, now and after reopening.
func TestDiscard(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, Options{})
	e := acquire(t, c, "a", 5000)
	write(t, e, "a", 0, 3000)
	if err := c.Sync(); err != nil {
		t.Fatal(err)
	}
	write(t, e, "a", 3000, 5000)
	f, err := e.Complete()
	if err != nil || f == nil {
		t.Fatalf("complete: %v, %v", f, err)
	}
	defer f.Close()
	if err := e.Discard(); err != nil {
		t.Fatal(err)
	}
	if n := check(t, e, "a"); n != 0 || c.Stats().Bytes != 0 {
		t.Errorf("%d bytes after discarding, %+v", n, c.Stats())
	}
	write(t, e, "a", 1000, 2000)
	e.Release()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, dir, Options{})
	e = acquire(t, c, "a", 5000)
	if n := check(t, e, "a"); n != 1000 {
		t.Errorf("%d bytes after reopening", n)
	}
	write(t, e, "a", 0, 5000)
	again, err := e.Complete()
	if err != nil || again == nil {
		t.Fatalf("complete: %v, %v", again, err)
	}
	defer again.Close()
	if inodeOf(t, f) != inodeOf(t, again) {
		t.Error("it is another inode")
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, Options{})
	e := acquire(t, c, "known", 10)
	write(t, e, "known", 0, 10)
	unknown := filepath.Join(dir, "data", "ab", "ab"+keyOf("x", 1).String()[2:])
	odd := filepath.Join(dir, "data", "cd", "odd")
	if err := errors.Join(c.Close(), os.MkdirAll(filepath.Dir(unknown), 0o700), os.MkdirAll(filepath.Dir(odd), 0o700), os.WriteFile(unknown, []byte("x"), 0o600), os.WriteFile(odd, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	c = open(t, dir, Options{})
	c.sweep()
	for _, path := range []string{unknown, odd} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
	if n := check(t, acquire(t, c, "known", 10), "known"); n != 10 {
		t.Errorf("%d bytes of the known", n)
	}
}

func TestQuota(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, Options{Quota: 64 << 10})
	put := func(name string) *Entry {
		e := acquire(t, c, name, 8<<10)
		write(t, e, name, 0, 8<<10)
		return e
	}
	has := func(name string) bool {
		e, err := c.Find(keyOf(name, 8<<10))
		if err != nil {
			return false
		}
		defer e.Release()
		return check(t, e, name) == 8<<10
	}
	held := put("held")
	for i := range 7 {
		put(fmt.Sprint(i)).Release()
	}
	if err := c.Sync(); err != nil { // what is not synced stays
		t.Fatal(err)
	}
	acquire(t, c, "0", 8<<10).Release() // used again
	put("new").Release()
	for name, want := range map[string]bool{"held": true, "0": true, "1": false, "2": true, "new": true} {
		if has(name) != want {
			t.Errorf("%s is in the cache: %t", name, !want)
		}
	}
	if st := c.Stats(); st.Bytes != 64<<10 || st.Idle != 56<<10 || st.Evicted != 1 {
		t.Errorf("%+v", st)
	}
	// All is held: there is no room, but nothing is lost either.
	var entries []*Entry
	for _, name := range []string{"0", "2", "3", "4", "5", "6", "new"} {
		entries = append(entries, acquire(t, c, name, 8<<10))
	}
	e := acquire(t, c, "more", 8<<10)
	if _, err := e.WriteAt(body("more", 8<<10), 0); !errors.Is(err, ErrNoSpace) || !errdefs.IsResourceExhausted(err) {
		t.Errorf("write over the quota: %v", err)
	}
	if st := c.Stats(); st.Refused != 1 || st.Idle != 0 {
		t.Errorf("%+v", st)
	}
	for _, e := range entries {
		e.Release()
	}
	if err := c.Sync(); err != nil {
		t.Fatal(err)
	}
	write(t, e, "more", 0, 8<<10)
	e.Release()
	held.Release()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	// The order of use outlives the process.
	c = open(t, dir, Options{Quota: 64 << 10})
	put("last").Release()
	if has("0") || !has("held") || !has("more") {
		t.Errorf("after reopening: 0 %t, held %t, more %t", has("0"), has("held"), has("more"))
	}
}

func TestReserve(t *testing.T) {
	c := open(t, t.TempDir(), Options{Reserve: 1 << 60})
	e := acquire(t, c, "a", lookEvery)
	if _, err := e.WriteAt(body("a", lookEvery), 0); !errors.Is(err, ErrNoSpace) {
		t.Errorf("write into the reserve: %v", err)
	}
}

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
func TestSyncsBehind(t *testing.T) {
	c := open(t, t.TempDir(), Options{})
	e := acquire(t, c, "a", 100)
	for _, after := range []int{maxUnsynced, maxUnsynced - 1} {
		c.dirtyMu.Lock()
		c.inSync = maxUnsynced
		c.dirtyMu.Unlock()
		result := make(chan error)
		go func() {
			_, err := e.WriteAt(body("a", 100), 0)
			result <- err
		}()
		<-c.hurry // it is about to wait
		c.dirtyMu.Lock()
		c.inSync = after
		c.dirtyRoom.Broadcast()
		c.dirtyMu.Unlock()
		if err := <-result; errors.Is(err, ErrNoSpace) != (after == maxUnsynced) {
			t.Errorf("%d due: %v", after, err)
		}
	}
	c.inSync = 0
	if n := check(t, e, "a"); n != 100 {
		t.Errorf("%d bytes", n)
	}
}

// TestSyncFailure loses what could not be synced, and nothing else.
func TestSyncFailure(t *testing.T) {
	for _, at := range []string{"data: sync", "journal: write", "journal: sync"} {
		t.Run(at, func(t *testing.T) {
			dir := t.TempDir()
			var mu sync.Mutex
			failing := false
			c := open(t, dir, Options{step: func(step string) error {
				mu.Lock()
				defer mu.Unlock()
				if failing && step == at {
					return io.ErrShortWrite
				}
				return nil
			}})
			e := acquire(t, c, "a", 5000)
			write(t, e, "a", 0, 1000)
			if err := c.Sync(); err != nil {
				t.Fatal(err)
			}
			write(t, e, "a", 500, 3000)
			failing = true
			if err := c.Sync(); !errors.Is(err, io.ErrShortWrite) {
				t.Fatalf("the failure went unnoticed: %v", err)
			}
			want := 3000
			if at == "data: sync" {
				want = 1000
			}
			if n := check(t, e, "a"); n != want {
				t.Errorf("%d bytes, want %d", n, want)
			}
			failing = false
			write(t, e, "a", 1000, 4000)
			if err := c.Sync(); err != nil {
				t.Fatal(err)
			}
			if at == "journal: write" && len(c.journal.buf) == 0 {
				t.Error("nothing was recorded")
			}
			e.Release()
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			c = open(t, dir, Options{})
			if n := check(t, acquire(t, c, "a", 5000), "a"); n != 4000 {
				t.Errorf("%d bytes after reopening", n)
			}
		})
	}
}
