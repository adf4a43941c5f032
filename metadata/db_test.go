package metadata

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"
)

func open(t testing.TB) *DB {
	t.Helper()
	db, err := Open(filepath.Join(t.TempDir(), "metadata.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func update(t testing.TB, db *DB, fn func(*Tx) error) {
	t.Helper()
	if err := db.Update(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func view(t testing.TB, db *DB, fn func(*Tx) error) {
	t.Helper()
	if err := db.View(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

// is reports an error of another kind than want; nil wants success.
func is(t testing.TB, what string, err, want error) {
	t.Helper()
	if want == nil && err != nil || want != nil && !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestOpenTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata.db")
	db, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{LockTimeout: time.Millisecond}); !errors.Is(err, errdefs.ErrUnavailable) || !strings.Contains(err.Error(), "another daemon") {
		t.Errorf("second Open: %v, want Unavailable and another daemon", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	is(t, "Update after Close", db.Update(t.Context(), func(*Tx) error { return nil }), errdefs.ErrUnavailable)
	is(t, "View after Close", db.View(t.Context(), func(*Tx) error { return nil }), errdefs.ErrUnavailable)
	db, err = Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	is(t, "Close", db.Close(), nil)
}

func TestSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata.db")
	b, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	var ran []int
	step := func(n int) func(*bbolt.Tx) error {
		return func(*bbolt.Tx) error {
			ran = append(ran, n)
			return nil
		}
	}
	is(t, "first", migrate(b, []func(*bbolt.Tx) error{step(1)}), nil)
	is(t, "next two", migrate(b, []func(*bbolt.Tx) error{step(1), step(2), step(3)}), nil)
	is(t, "again", migrate(b, []func(*bbolt.Tx) error{step(1), step(2), step(3)}), nil)
	if fmt.Sprint(ran) != "[1 2 3]" {
		t.Errorf("migrations ran: %v", ran)
	}
	failed := errors.New("failed")
	is(t, "failing", migrate(b, []func(*bbolt.Tx) error{step(1), step(2), step(3), func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket([]byte("x"))
		return errors.Join(err, failed)
	}}), failed)
	if v, err := schema(b); v != 3 || err != nil {
		t.Errorf("schema after a failed migration: %d, %v", v, err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = Open(path, Options{})
	is(t, "newer schema", err, errdefs.ErrFailedPrecondition)

	other := filepath.Join(t.TempDir(), "other.db")
	b, err = bbolt.Open(other, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket([]byte("v1"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = Open(other, Options{})
	is(t, "another program's file", err, errdefs.ErrFailedPrecondition)
}

// A file that is damaged anywhere opens with DataLoss, or works; nothing panics.
func TestDamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata.db")
	db, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	update(t, db, func(tx *Tx) error {
		for i := range 300 {
			if _, err := tx.Blobs("default").Create(blob(i)); err != nil {
				return err
			}
		}
		return nil
	})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	used := 0
	for i, b := range whole {
		if b != 0 {
			used = i
		}
	}
	whole = whole[:(used/4096+1)*4096]
	try := func(name string, data []byte, must error) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := Open(path, Options{})
		if err != nil {
			if !errors.Is(err, errdefs.ErrDataLoss) && !errors.Is(err, errdefs.ErrFailedPrecondition) {
				t.Errorf("%s: %v, want DataLoss", name, err)
			}
			return
		}
		defer db.Close()
		if must != nil {
			t.Errorf("%s: opened, want %v", name, must)
		}
		_ = db.View(t.Context(), func(tx *Tx) error { // it may find damaged records
			_, err := tx.Blobs("default").List()
			return err
		})
		_ = db.Update(t.Context(), func(tx *Tx) error {
			_, err := tx.Images("default").Create(image("x", 1))
			return err
		})
	}
	try("whole", whole, nil)
	try("cut at a page", whole[:len(whole)/2/4096*4096], errdefs.ErrDataLoss)
	try("cut to 100 bytes", whole[:100], errdefs.ErrDataLoss)
	try("text", []byte(strings.Repeat("not a database\n", 2000)), errdefs.ErrDataLoss)
	for page := 2; page < len(whole)/4096; page++ {
		data := append([]byte(nil), whole...)
		for i := range 4096 {
			data[page*4096+i] = 0xff
		}
		try(fmt.Sprintf("page %d overwritten", page), data, nil)
	}
	for i := 0; i < len(whole); i += 499 { // also within metas and headers
		data := append([]byte(nil), whole...)
		data[i] ^= 0x41
		try(fmt.Sprintf("byte %d changed", i), data, nil)
	}
}

func TestUpdateUndoes(t *testing.T) {
	db := open(t)
	failed := errors.New("failed")
	is(t, "failing Update", db.Update(t.Context(), func(tx *Tx) error {
		if _, err := tx.Images("default").Create(image("gone", 1)); err != nil {
			return err
		}
		return failed
	}), failed)
	view(t, db, func(tx *Tx) error {
		_, err := tx.Images("default").Get("gone")
		is(t, "Get", err, errdefs.ErrNotFound)
		return nil
	})
	is(t, "writing in a View", db.View(t.Context(), func(tx *Tx) error {
		_, err := tx.Images("default").Create(image("x", 1))
		return err
	}), errdefs.ErrFailedPrecondition)
}

// gate makes an Update that is running, and a function that lets it end: what is called meanwhile shares the next commit.
func gate(t *testing.T, db *DB) (release func()) {
	running, open, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(running) })
	go func() {
		defer close(ended)
		_ = db.Update(context.Background(), func(*Tx) error {
			once()
			<-open
			return nil
		})
	}()
	<-running
	return func() {
		close(open)
		<-ended
	}
}

// queued waits until n calls are in the queue.
func queued(db *DB, n int) {
	for {
		db.writer.mu.Lock()
		have := len(db.writer.queue)
		db.writer.mu.Unlock()
		if have >= n {
			return
		}
		runtime.Gosched()
	}
}

func TestGroupCommit(t *testing.T) {
	db := open(t)
	release := gate(t, db)
	before := commits(t, db)
	const n = 40
	failed := errors.New("failed")
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			defer func() {
				if r := recover(); r != nil {
					errs[i] = fmt.Errorf("panicked: %v", r)
				}
			}()
			errs[i] = db.Update(t.Context(), func(tx *Tx) error {
				if _, err := tx.Images("default").Create(image(fmt.Sprintf("i%02d", i), 1)); err != nil {
					return err
				}
				switch i % 10 {
				case 3:
					return failed // after it wrote
				case 7:
					panic("oops")
				}
				return nil
			})
		})
	}
	queued(db, n)
	release()
	wg.Wait()
	for i, err := range errs {
		switch i % 10 {
		case 3:
			is(t, "failing", err, failed)
		case 7:
			if err == nil || !strings.HasPrefix(err.Error(), "panicked: oops") {
				t.Errorf("panicking: %v", err)
			}
		default:
			is(t, "working", err, nil)
		}
	}
	view(t, db, func(tx *Tx) error {
		list, err := tx.Images("default").List()
		if len(list) != n*8/10 {
			t.Errorf("%d images, want %d", len(list), n*8/10)
		}
		return err
	})
	if made := commits(t, db) - before; made != 1 {
		t.Errorf("%d commits for one group, want 1", made)
	}
}

// commits counts commits that were ever made: the number of the last write transaction.
func commits(t *testing.T, db *DB) (n int) {
	view(t, db, func(tx *Tx) error {
		n = tx.bolt.ID()
		return nil
	})
	return n
}

func TestUpdateCancelled(t *testing.T) {
	db := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	release := gate(t, db)
	done := make(chan error)
	go func() {
		done <- db.Update(ctx, func(*Tx) error {
			t.Error("a cancelled Update ran")
			return nil
		})
	}()
	queued(db, 1)
	cancel()
	is(t, "waiting Update", <-done, context.Canceled)
	release()
	is(t, "Update with a cancelled context", db.Update(ctx, func(*Tx) error { return nil }), context.Canceled)
	is(t, "View with a cancelled context", db.View(ctx, func(*Tx) error { return nil }), context.Canceled)
	is(t, "Update afterwards", db.Update(t.Context(), func(*Tx) error { return nil }), nil)
}

// A function that ends the goroutine of the leader must not block those who share its commit, nor those who come later.
func TestUpdateGoexit(t *testing.T) {
	db := open(t)
	release := gate(t, db)
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = db.Update(context.Background(), func(*Tx) error {
			runtime.Goexit()
			return nil
		})
	})
	queued(db, 1)
	var shared error
	wg.Go(func() { shared = db.Update(context.Background(), func(*Tx) error { return nil }) })
	queued(db, 2)
	release()
	wg.Wait()
	is(t, "who shared", shared, errdefs.ErrAborted)
	is(t, "afterwards", db.Update(t.Context(), func(*Tx) error { return nil }), nil)
}

func TestUpdateConcurrently(t *testing.T) {
	db := open(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				name := fmt.Sprintf("%d-%d", i, j)
				is(t, "Update", db.Update(t.Context(), func(tx *Tx) error {
					_, err := tx.Images("default").Create(image(name, 1))
					return err
				}), nil)
				is(t, "View", db.View(t.Context(), func(tx *Tx) error {
					_, err := tx.Images("default").Get(name)
					return err
				}), nil)
			}
		})
	}
	wg.Wait()
	view(t, db, func(tx *Tx) error {
		list, err := tx.Images("default").Page("", 1000)
		if len(list) != 400 {
			t.Errorf("%d images, want 400", len(list))
		}
		return err
	})
}

// A commit that fails, as on a full disk, fails for all who shared it and leaves the file as it was, ready for the next.
func TestDiskFull(t *testing.T) {
	db := open(t)
	update(t, db, func(tx *Tx) error { return add(tx, "blob b:1") })
	info, err := os.Stat(db.bolt.Path())
	if err != nil {
		t.Fatal(err)
	}
	db.bolt.MaxSize = int(info.Size())
	many := func(tx *Tx) error {
		for i := range 60 {
			c := container(fmt.Sprintf("c%d", i))
			c.Spec.Value = make([]byte, 1<<20)
			if _, err := tx.Containers("ns").Create(c); err != nil {
				return err
			}
		}
		return nil
	}
	release := gate(t, db)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			is(t, "Update on a full disk", db.Update(t.Context(), func(tx *Tx) error { return errors.Join(many(tx), tx.Containers("ns").Delete("c0")) }), errdefs.ErrResourceExhausted)
		})
	}
	queued(db, 1)
	release()
	wg.Wait()
	for i := range 20 {
		is(t, "small Update", db.Update(t.Context(), func(tx *Tx) error { return add(tx, fmt.Sprintf("blob b:%d", i+2)) }), nil)
	}
	db.bolt.MaxSize = 0
	is(t, "Update with room again", db.Update(t.Context(), many), nil)
	view(t, db, func(tx *Tx) error {
		blobs, err := tx.Blobs("ns").List()
		containers, err2 := tx.Containers("ns").List()
		if len(blobs) != 21 || len(containers) != 60 {
			t.Errorf("%d blobs and %d containers, want 21 and 60", len(blobs), len(containers))
		}
		return errors.Join(err, err2)
	})
}
