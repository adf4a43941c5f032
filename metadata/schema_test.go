package metadata

import (
	"encoding/binary"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"

	"github.com/slipwayd/slipway/storage"
)

// Schema 1 had namespaces, drivers and keys in the children bucket. What it knew of the graph must be known afterwards.
func TestMigrateChildren(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata.db")
	db, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	update(t, db, func(tx *Tx) (err error) {
		for _, s := range []struct{ ns, driver, key, parent string }{
			{"a", "overlay", "base", ""}, {"a", "overlay", "one", "base"}, {"a", "overlay", "two", "base"},
			{"b", "overlay", "base", ""}, {"b", "overlay", "one", "base"}, {"b", "native", "base", ""},
		} {
			graph := tx.Snapshots(s.ns, s.driver)
			_, _, perr := graph.Prepare("extract", s.parent, storage.Active, nil)
			_, cerr := graph.Commit(s.key, "extract", CommitOptions{})
			err = errors.Join(err, perr, cerr)
		}
		return err
	})
	is(t, "Close", db.Close(), nil)
	want := children(t, path, func(*bbolt.Tx) error { return nil })
	if len(want) != 3 {
		t.Fatalf("children in schema 2: %q", want)
	}

	children(t, path, func(tx *bbolt.Tx) error { // make schema 1 of it
		old := tx.Bucket([]byte(bucketChildren))
		var err error
		for _, k := range want {
			err = errors.Join(err, old.Delete([]byte(k)))
		}
		for _, k := range []string{"a\x00overlay\x00base\x00one", "a\x00overlay\x00base\x00two", "b\x00overlay\x00base\x00one"} {
			err = errors.Join(err, old.Put([]byte(k), nil))
		}
		snapshots := tx.Bucket([]byte(bucketSnapshots))
		return errors.Join(err,
			snapshots.Put([]byte("a\x00overlay\x00damaged"), []byte("{")),
			snapshots.Put([]byte("a\x00overlay\x00orphan"), []byte(`{"layer":"z","parent":"gone"}`)),
			tx.Bucket([]byte(bucketMeta)).Put([]byte(keySchema), binary.BigEndian.AppendUint64(nil, 1)),
		)
	})

	if db, err = Open(path, Options{}); err != nil {
		t.Fatal(err)
	}
	is(t, "Close", db.Close(), nil)
	if got := children(t, path, func(*bbolt.Tx) error { return nil }); !slices.Equal(got, want) {
		t.Errorf("children after the migration: %q, want %q", got, want)
	}
	if db, err = Open(path, Options{}); err != nil {
		t.Fatal(err)
	}
	defer db.Close() //nolint:errcheck // what it wrote was tested
	remove := func(ns, key string, want error) {
		t.Helper()
		is(t, "Remove of "+key, db.Update(t.Context(), func(tx *Tx) error {
			_, err := tx.Snapshots(ns, "overlay").Remove(key)
			return err
		}), want)
	}
	remove("a", "base", errdefs.ErrFailedPrecondition)
	remove("a", "one", nil)
	remove("a", "base", errdefs.ErrFailedPrecondition)
	remove("a", "two", nil)
	remove("a", "base", nil)
	remove("b", "base", errdefs.ErrFailedPrecondition)
}

// children runs fn on a file that nobody has open and answers the keys of the children bucket afterwards.
func children(t *testing.T, path string, fn func(*bbolt.Tx) error) (keys []string) {
	t.Helper()
	b, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = b.Update(fn)
	err = errors.Join(err, b.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketChildren)).ForEach(func(k, _ []byte) error {
			keys = append(keys, string(k))
			return nil
		})
	}), b.Close())
	if err != nil {
		t.Fatal(err)
	}
	return keys
}
