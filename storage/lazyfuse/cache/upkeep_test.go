package cache

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

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

// TestQuotaTooSmall has a write that nothing could make room for: nothing is removed for it.
func TestQuotaTooSmall(t *testing.T) {
	c := open(t, t.TempDir(), Options{Quota: 64 << 10})
	e := acquire(t, c, "idle", 8<<10)
	write(t, e, "idle", 0, 8<<10)
	e.Release()
	if err := c.Sync(); err != nil {
		t.Fatal(err)
	}
	if _, err := acquire(t, c, "big", 80<<10).WriteAt(body("big", 80<<10), 0); !errors.Is(err, ErrNoSpace) {
		t.Errorf("write of more than the quota: %v", err)
	}
	if st := c.Stats(); st.Evicted != 0 || st.Bytes != 8<<10 {
		t.Errorf("%+v", st)
	}
}

func TestReserve(t *testing.T) {
	c := open(t, t.TempDir(), Options{Reserve: 1 << 60})
	e := acquire(t, c, "a", lookEvery)
	if _, err := e.WriteAt(body("a", lookEvery), 0); !errors.Is(err, ErrNoSpace) {
		t.Errorf("write into the reserve: %v", err)
	}
}

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

// TestIdle gives back what nobody holds beyond a bound, the oldest first.
func TestIdle(t *testing.T) {
	removed := make(chan struct{}, 10)
	c := open(t, t.TempDir(), Options{Idle: 8192, SyncEvery: time.Millisecond, step: func(step string) error {
		if step == "data: remove" {
			removed <- struct{}{}
		}
		return nil
	}})
	var held []*Entry
	for _, name := range []string{"a", "b", "c", "d"} {
		e := acquire(t, c, name, 4096)
		write(t, e, name, 0, 4096)
		held = append(held, e)
	}
	if err := c.Sync(); err != nil {
		t.Fatal(err)
	}
	for _, e := range held {
		e.Release()
	}
	<-removed
	<-removed
	for name, there := range map[string]bool{"a": false, "b": false, "c": true, "d": true} {
		e, err := c.Find(keyOf(name, 4096))
		if there != (err == nil) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			e.Release()
		}
	}
}
