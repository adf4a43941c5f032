package metadata

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/storage"
)

func TestSnapshots(t *testing.T) {
	db := open(t)
	update(t, db, func(tx *Tx) error {
		graph := tx.Snapshots("default", "overlay")
		base, layer, err := graph.Prepare("key", "", storage.Active, map[string]string{"containerd.io/snapshot/uidmapping": "0:1000:1", "other": "x", labelSnapshotRef: "chain"})
		want := storage.Layer{ID: base.LayerID, Kind: storage.Active, UIDMap: "0:1000:1", Labels: map[string]string{"containerd.io/snapshot/uidmapping": "0:1000:1", labelSnapshotRef: "chain"}}
		if err != nil || !reflect.DeepEqual(layer, want) {
			t.Errorf("Prepare: %+v, %v, want %+v", layer, err, want)
		}
		_, _, err = graph.Prepare("key", "", storage.Active, nil)
		is(t, "Prepare of a key that is taken", err, errdefs.ErrAlreadyExists)
		_, _, err = graph.Prepare("x", "none", storage.Active, nil)
		is(t, "Prepare on nothing", err, errdefs.ErrNotFound)
		_, _, err = graph.Prepare("x", "key", storage.Active, nil)
		is(t, "Prepare on an active one", err, errdefs.ErrFailedPrecondition)
		_, _, err = graph.Prepare("x", "", storage.Committed, nil)
		is(t, "Prepare of a committed one", err, errdefs.ErrInvalidArgument)
		_, _, err = graph.Prepare("", "", storage.Active, nil)
		is(t, "Prepare without a key", err, errdefs.ErrInvalidArgument)
		_, _, err = tx.Snapshots("default", "").Prepare("x", "", storage.Active, nil)
		is(t, "Prepare without a driver", err, errdefs.ErrInvalidArgument)

		committed, err := graph.Commit("base", "key", CommitOptions{Usage: storage.Usage{Size: 7, Inodes: 2}, Labels: map[string]string{"l": "1"}})
		if err != nil || committed.LayerID != base.LayerID || committed.Kind != storage.Committed || committed.Usage.Size != 7 || len(committed.Labels) != 1 {
			t.Errorf("Commit: %+v, %v", committed, err)
		}
		is(t, "Measured", graph.Measured("base", storage.Usage{Size: 7, Inodes: 3}), nil)
		if got, err := graph.Get("base"); err != nil || got.Usage != (storage.Usage{Size: 7, Inodes: 3}) || len(got.Labels) != 1 {
			t.Errorf("Measured: %+v, %v", got, err)
		}
		is(t, "Measured of nothing", graph.Measured("none", storage.Usage{}), errdefs.ErrNotFound)
		_, err = graph.Get("key")
		is(t, "Get of the key after Commit", err, errdefs.ErrNotFound)
		_, err = graph.Commit("base2", "base", CommitOptions{})
		is(t, "Commit of a committed one", err, errdefs.ErrFailedPrecondition)
		_, err = graph.Commit("base2", "none", CommitOptions{})
		is(t, "Commit of nothing", err, errdefs.ErrNotFound)
		_, _, err = graph.Prepare("x", "", storage.Active, map[string]string{labelSnapshotRef: "base"})
		is(t, "Prepare of a ref that is there", err, errdefs.ErrAlreadyExists)

		_, _, err = graph.Prepare("key", "base", storage.Active, nil)
		is(t, "Prepare on base", err, nil)
		is(t, "Measured of an active one", graph.Measured("key", storage.Usage{}), errdefs.ErrFailedPrecondition)
		_, err = graph.Commit("base", "key", CommitOptions{})
		is(t, "Commit to a name that is taken", err, errdefs.ErrAlreadyExists)
		middle, err := graph.Commit("middle", "key", CommitOptions{})
		is(t, "Commit", err, nil)
		view, layer, err := graph.Prepare("view", "middle", storage.View, nil)
		if err != nil || !slices.Equal(layer.Parents, []string{middle.LayerID, base.LayerID}) || view.LayerID == middle.LayerID {
			t.Errorf("View: %+v, %v", layer, err)
		}
		if again, err := graph.Layer("view"); err != nil || !reflect.DeepEqual(again, layer) {
			t.Errorf("Layer: %+v, %v, want %+v", again, err, layer)
		}
		_, err = graph.Commit("x", "view", CommitOptions{})
		is(t, "Commit of a view", err, errdefs.ErrFailedPrecondition)

		for f, want := range map[string]string{"kind==committed": "base middle", "kind==view": "view", "parent==base": "middle", "name==view": "view", "labels.l==1": "base"} {
			list, err := graph.List(f)
			var names []string
			for _, s := range list {
				names = append(names, s.Key)
			}
			if err != nil || strings.Join(names, " ") != want {
				t.Errorf("List(%q): %q, %v, want %q", f, names, err, want)
			}
		}
		updated, err := graph.Update(Snapshot{Key: "base", Labels: map[string]string{"m.n": "2"}}, "labels.m.n")
		if err != nil || len(updated.Labels) != 2 || updated.Usage.Size != 7 {
			t.Errorf("Update: %+v, %v", updated, err)
		}
		_, err = graph.Update(Snapshot{Key: "base"}, "parent")
		is(t, "Update of the parent", err, errdefs.ErrInvalidArgument)

		_, err = graph.Remove("middle")
		is(t, "Remove of a parent", err, errdefs.ErrFailedPrecondition)
		for _, key := range []string{"view", "middle", "base"} {
			_, err = graph.Remove(key)
			is(t, "Remove of "+key, err, nil)
		}
		_, err = graph.Remove("base")
		is(t, "Remove again", err, errdefs.ErrNotFound)
		next, _, err := graph.Prepare("key", "", storage.Active, nil)
		if err != nil || next.LayerID <= view.LayerID {
			t.Errorf("layer %s after %s, %v: ids must not come back", next.LayerID, view.LayerID, err)
		}
		return nil
	})
}

// Graphs of namespaces and drivers have nothing to do with each other, but the ids of a driver's layers are unique.
func TestSnapshotsApart(t *testing.T) {
	db := open(t)
	update(t, db, func(tx *Tx) error {
		ids := map[string]bool{}
		for _, ns := range []string{"a", "b"} {
			for _, driver := range []string{"overlay", "native"} {
				s, _, err := tx.Snapshots(ns, driver).Prepare("key", "", storage.Active, nil)
				if err != nil {
					return err
				}
				ids[driver+s.LayerID] = true
			}
		}
		if len(ids) != 4 {
			t.Errorf("ids %v are not unique", ids)
		}
		_, err := tx.Snapshots("a", "overlay").Commit("base", "key", CommitOptions{})
		is(t, "Commit", err, nil)
		_, _, err = tx.Snapshots("b", "overlay").Prepare("x", "base", storage.Active, nil)
		is(t, "Prepare on another namespace's", err, errdefs.ErrNotFound)
		layers, err := tx.LayerIDs("overlay")
		if err != nil || len(layers) != 2 {
			t.Errorf("LayerIDs: %v, %v", layers, err)
		}
		return nil
	})
}

func TestSnapshotRebase(t *testing.T) {
	db := open(t)
	update(t, db, func(tx *Tx) error {
		graph := tx.Snapshots("default", "overlay")
		for _, key := range []string{"k1", "k2", "k3"} {
			if _, _, err := graph.Prepare(key, "", storage.Active, nil); err != nil {
				return err
			}
		}
		_, err := graph.Commit("base", "k1", CommitOptions{})
		is(t, "Commit", err, nil)
		_, err = graph.Commit("top", "k2", CommitOptions{Parent: "none"})
		is(t, "Commit on nothing", err, errdefs.ErrNotFound)
		_, err = graph.Commit("top", "k2", CommitOptions{Parent: "k3"})
		is(t, "Commit on an active one", err, errdefs.ErrFailedPrecondition)
		_, err = graph.Commit("top", "k2", CommitOptions{Parent: "base"})
		is(t, "Commit on base", err, nil)
		_, _, err = graph.Prepare("k4", "top", storage.Active, nil)
		is(t, "Prepare", err, nil)
		_, err = graph.Commit("other", "k4", CommitOptions{Parent: "base"})
		is(t, "Commit on another parent", err, errdefs.ErrFailedPrecondition)
		_, err = graph.Remove("base")
		is(t, "Remove of a parent by rebase", err, errdefs.ErrFailedPrecondition)
		return nil
	})
}

func TestSnapshotDepth(t *testing.T) {
	db := open(t)
	update(t, db, func(tx *Tx) error {
		graph := tx.Snapshots("default", "overlay")
		parent := ""
		for i := range maxDepth {
			if _, _, err := graph.Prepare("key", parent, storage.Active, nil); err != nil {
				return err
			}
			name := fmt.Sprint(i)
			if _, err := graph.Commit(name, "key", CommitOptions{}); err != nil {
				return err
			}
			parent = name
		}
		_, _, err := graph.Prepare("key", parent, storage.Active, nil)
		is(t, "Prepare on the deepest", err, nil)
		_, err = graph.Commit("last", "key", CommitOptions{})
		is(t, "Commit", err, nil)
		_, _, err = graph.Prepare("key", "last", storage.Active, nil)
		is(t, "Prepare above the bound", err, errdefs.ErrFailedPrecondition)
		return nil
	})
}

func TestLeases(t *testing.T) {
	db := open(t)
	update(t, db, func(tx *Tx) error {
		leases := tx.Leases("default")
		_, err := leases.Create(Lease{ID: "1234-Ab_-", Labels: map[string]string{labelExpire: "2999-01-01T00:00:00Z"}})
		is(t, "Create", err, nil)
		_, err = leases.Create(Lease{ID: "1234-Ab_-"})
		is(t, "Create again", err, errdefs.ErrAlreadyExists)
		_, err = leases.Create(Lease{})
		is(t, "Create without an id", err, errdefs.ErrInvalidArgument)
		for _, test := range []struct {
			r   Resource
			err error
		}{
			{Resource{"content", dgst(1).String()}, nil},
			{Resource{"content", dgst(1).String()}, nil},
			{Resource{"content", "sha256:x"}, errdefs.ErrInvalidArgument},
			{Resource{"ingests", "ref"}, nil},
			{Resource{"images", "i"}, nil},
			{Resource{"snapshots/overlay", "k"}, nil},
			{Resource{"snapshots", "k"}, errdefs.ErrInvalidArgument},
			{Resource{"snapshots/a/b", "k"}, errdefs.ErrInvalidArgument},
			{Resource{"images", ""}, errdefs.ErrInvalidArgument},
			{Resource{"volumes", "v"}, errdefs.ErrNotImplemented},
		} {
			is(t, fmt.Sprintf("AddResource(%v)", test.r), leases.AddResource("1234-Ab_-", test.r), test.err)
		}
		is(t, "AddResource to nothing", leases.AddResource("x", Resource{"images", "i"}), errdefs.ErrNotFound)
		list, err := leases.Resources("1234-Ab_-")
		if err != nil || len(list) != 4 {
			t.Errorf("Resources: %v, %v", list, err)
		}
		is(t, "RemoveResource", leases.RemoveResource("1234-Ab_-", Resource{"ingests", "ref"}), nil)
		is(t, "RemoveResource again", leases.RemoveResource("1234-Ab_-", Resource{"ingests", "ref"}), nil)
		is(t, "Delete", leases.Delete("1234-Ab_-"), nil)
		is(t, "Delete again", leases.Delete("1234-Ab_-"), errdefs.ErrNotFound)
		_, err = leases.Create(Lease{ID: "1234-Ab_-"})
		is(t, "Create anew", err, nil)
		if list, err := leases.Resources("1234-Ab_-"); err != nil || len(list) != 0 {
			t.Errorf("a new lease has %v, %v", list, err)
		}
		return nil
	})
}

// What is created under a lease joins it, and what is there already does so too, although the transaction fails.
func TestLeaseJoins(t *testing.T) {
	db := open(t)
	update(t, db, func(tx *Tx) error {
		_, err := tx.Leases("ns").Create(Lease{ID: "l"})
		return errors.Join(err, add(tx, "blob b:1"), add(tx, "active old"), add(tx, "ingest old"), add(tx, "committed base"))
	})
	ctx := WithLease(t.Context(), "l")
	joined := func() []Resource {
		var list []Resource
		view(t, db, func(tx *Tx) (err error) {
			list, err = tx.Leases("ns").Resources("l")
			return err
		})
		return list
	}
	is(t, "Create under a lease that is not there", db.Update(WithLease(t.Context(), "x"), func(tx *Tx) error {
		_, err := tx.Blobs("ns").Create(blob(2))
		return err
	}), errdefs.ErrNotFound)
	for _, wroteBefore := range []bool{false, true} {
		is(t, "Create of what is there", db.Update(ctx, func(tx *Tx) error {
			d := dgst(1)
			if wroteBefore {
				if _, err := tx.Blobs("ns").Create(blob(9)); err != nil {
					return err
				}
			}
			_, err := tx.Blobs("ns").Create(Blob{Digest: d})
			if err != nil {
				return fmt.Errorf("wrapped: %w", err)
			}
			return nil
		}), errdefs.ErrAlreadyExists)
		if list := joined(); !slices.Equal(list, []Resource{{"content", dgst(1).String()}}) {
			t.Errorf("joined %v", list)
		}
		is(t, "RemoveResource", db.Update(t.Context(), func(tx *Tx) error {
			return tx.Leases("ns").RemoveResource("l", Resource{"content", dgst(1).String()})
		}), nil)
	}
	is(t, "Prepare of what is there", db.Update(ctx, func(tx *Tx) error {
		_, _, err := tx.Snapshots("ns", "overlay").Prepare("x", "", storage.Active, map[string]string{labelSnapshotRef: "base"})
		return err
	}), errdefs.ErrAlreadyExists)
	is(t, "Update", db.Update(ctx, func(tx *Tx) error {
		_, err1 := tx.Blobs("ns").Create(blob(3))
		_, _, err2 := tx.Snapshots("ns", "overlay").Prepare("k", "", storage.Active, nil)
		in, err3 := tx.Ingests("ns").Create(Ingest{Ref: "new"})
		if !in.ExpiresAt.IsZero() {
			t.Errorf("a leased ingest expires at %v", in.ExpiresAt)
		}
		_, err4 := tx.Ingests("ns").Open(Ingest{Ref: "old"})
		_, err5 := tx.Images("ns").Create(image("kept", 1))
		i := image("expiring", 1)
		i.Labels = map[string]string{labelExpire: "2999-01-01T00:00:00Z"}
		_, err6 := tx.Images("ns").Create(i)
		return errors.Join(err1, err2, err3, err4, err5, err6)
	}), nil)
	want := []Resource{{"content", dgst(3).String()}, {"images", "expiring"}, {"ingests", "new"}, {"ingests", "old"}, {"snapshots/overlay", "base"}, {"snapshots/overlay", "k"}}
	if list := joined(); !slices.Equal(list, want) {
		t.Errorf("joined %v, want %v", list, want)
	}
	is(t, "Commit", db.Update(ctx, func(tx *Tx) error {
		_, err := tx.Snapshots("ns", "overlay").Commit("n", "k", CommitOptions{})
		return err
	}), nil)
	if list := joined(); !slices.Contains(list, Resource{"snapshots/overlay", "n"}) || slices.Contains(list, Resource{"snapshots/overlay", "k"}) {
		t.Errorf("after Commit: %v", list)
	}
}

func TestBlobs(t *testing.T) {
	db := open(t)
	update(t, db, func(tx *Tx) error {
		blobs := tx.Blobs("a")
		_, err := blobs.Create(Blob{Digest: "md5:x"})
		is(t, "Create with a wrong digest", err, errdefs.ErrInvalidArgument)
		_, err = blobs.Create(Blob{Digest: dgst(1), Size: -1})
		is(t, "Create with a wrong size", err, errdefs.ErrInvalidArgument)
		_, err = blobs.Create(blob(0))
		is(t, "Create of an empty blob", err, nil)
		_, err = blobs.Create(blob(1))
		is(t, "Create", err, nil)
		_, err = tx.Blobs("b").Get(dgst(1))
		is(t, "Get in another namespace", err, errdefs.ErrNotFound)
		got, err := tx.Blobs("b").Shared(dgst(1))
		if err != nil || got.Size != 1 {
			t.Errorf("Shared: %v, %v", got, err)
		}
		_, err = tx.Blobs("a").Shared(dgst(1))
		is(t, "Shared in its own namespace", err, errdefs.ErrNotFound)
		_, err = tx.Blobs("b").Create(blob(1))
		is(t, "Create in another", err, nil)
		list, err := blobs.List("size==1", "digest=="+dgst(0).String())
		if err != nil || len(list) != 2 {
			t.Errorf("List: %v, %v", list, err)
		}
		all, err := tx.Digests()
		if err != nil || len(all) != 2 {
			t.Errorf("Digests: %v, %v", all, err)
		}
		last, err := blobs.Delete(dgst(1))
		if last || err != nil {
			t.Errorf("Delete of one of two: last %v, %v", last, err)
		}
		last, err = tx.Blobs("b").Delete(dgst(1))
		if !last || err != nil {
			t.Errorf("Delete: last %v, %v", last, err)
		}
		_, err = blobs.Delete(dgst(1))
		is(t, "Delete again", err, errdefs.ErrNotFound)
		return nil
	})
}

func TestIsolated(t *testing.T) {
	db := open(t)
	db.options.Isolated = true
	update(t, db, func(tx *Tx) error {
		_, err1 := tx.Blobs("a").Create(blob(1))
		_, err2 := tx.Blobs("b").Create(Blob{Digest: dgst(2), Labels: map[string]string{labelShareable: "true"}})
		_, err3 := tx.Namespaces().Create(Namespace{Name: "c", Labels: map[string]string{labelShareable: "true"}})
		_, err4 := tx.Blobs("c").Create(blob(3))
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			return err
		}
		_, err := tx.Blobs("x").Shared(dgst(1))
		is(t, "private", err, errdefs.ErrNotFound)
		_, err = tx.Blobs("x").Shared(dgst(2))
		is(t, "labelled blob", err, nil)
		_, err = tx.Blobs("x").Shared(dgst(3))
		is(t, "labelled namespace", err, nil)
		return nil
	})
}

func TestIngests(t *testing.T) {
	db := open(t)
	update(t, db, func(tx *Tx) error {
		ingests := tx.Ingests("a")
		first, err := ingests.Create(Ingest{Ref: "r", StoreRef: "mine"})
		if err != nil || first.StoreRef == "mine" || first.ExpiresAt.Sub(first.CreatedAt) != 24*time.Hour {
			t.Errorf("Create: %+v, %v", first, err)
		}
		_, err = ingests.Create(Ingest{Ref: "r"})
		is(t, "Create again", err, errdefs.ErrAlreadyExists)
		same, err := ingests.Open(Ingest{Ref: "r"})
		if err != nil || same.StoreRef != first.StoreRef {
			t.Errorf("Open: %+v, %v, want %+v", same, err, first)
		}
		expected, err := ingests.Open(Ingest{Ref: "r", Expected: dgst(1)})
		if err != nil || expected.Expected != dgst(1) {
			t.Errorf("Open with a digest: %+v, %v", expected, err)
		}
		_, err = ingests.Open(Ingest{Ref: "r", Expected: "x"})
		is(t, "Open with a wrong digest", err, errdefs.ErrInvalidArgument)
		other, err := tx.Ingests("b").Open(Ingest{Ref: "r"})
		if err != nil || other.StoreRef == first.StoreRef {
			t.Errorf("Open in another namespace: %+v, %v", other, err)
		}
		later := *tx
		later.now = tx.now.Add(2 * time.Hour)
		renewed, err := later.Ingests("a").Open(Ingest{Ref: "r"})
		if err != nil || !renewed.ExpiresAt.Equal(later.now.Add(24*time.Hour)) {
			t.Errorf("Open after two hours: %+v, %v", renewed, err)
		}
		refs, err := tx.StoreRefs()
		if err != nil || len(refs) != 2 || refs[first.StoreRef] != (Owner{"a", "r"}) {
			t.Errorf("StoreRefs: %v, %v", refs, err)
		}
		gone, err := ingests.Delete("r")
		if err != nil || gone.StoreRef != first.StoreRef {
			t.Errorf("Delete: %+v, %v", gone, err)
		}
		again, err := ingests.Open(Ingest{Ref: "r"})
		if err != nil || again.StoreRef == first.StoreRef {
			t.Errorf("Open after Delete: %+v, %v", again, err)
		}
		return nil
	})
}

// Drivers may do less for snapshots that a layer is unpacked into.
func TestUnpackSnapshots(t *testing.T) {
	db := open(t)
	update(t, db, func(tx *Tx) error {
		graph := tx.Snapshots("default", "windows")
		for key, want := range map[string]bool{"extract-1 sha256:x": true, "container": false, "x extract-": false} {
			if _, layer, err := graph.Prepare(key, "", storage.Active, nil); err != nil || layer.Unpack != want {
				t.Errorf("Prepare(%q): %+v, %v", key, layer, err)
			}
		}
		if _, err := graph.Commit("extract-name", "extract-1 sha256:x", CommitOptions{}); err != nil {
			t.Fatal(err)
		}
		if layer, err := graph.Layer("extract-name"); err != nil || layer.Unpack {
			t.Errorf("of a committed snapshot: %+v, %v", layer, err)
		}
		return nil
	})
}
