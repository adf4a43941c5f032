package metadata

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/metadata/filter"
	"github.com/slipwayd/slipway/storage"
)

// Labels of snapshots that containerd defines (core/snapshots). Drivers see those that begin with labelInherited, and labelRef.
const (
	labelInherited   = "containerd.io/snapshot/"
	labelSnapshotRef = "containerd.io/snapshot.ref"
	labelUIDMap      = "containerd.io/snapshot/uidmapping"
	labelGIDMap      = "containerd.io/snapshot/gidmapping"
)

// unpackKeyPrefix begins the keys of snapshots that a layer is unpacked into (containerd's core/snapshots, UnpackKeyPrefix).
const unpackKeyPrefix = "extract-"

// Snapshots is the graph of one driver's snapshots in one namespace. An active snapshot or view has a key; commit gives it a
// name, and names and keys are one set.
type Snapshots struct {
	rows   rows[Snapshot]
	driver string
}

// CommitOptions of Snapshots.Commit.
type CommitOptions struct {
	Usage  storage.Usage
	Labels map[string]string // all labels of the committed snapshot; those of Prepare end
	Parent string            // "rebase": only for a snapshot that was prepared without a parent
}

var snapshots = table[Snapshot]{
	bucket: bucketSnapshots, noun: "snapshot", pin: "name", maxSize: maxRecord,
	encode: encodeJSON[Snapshot],
	decode: decodeJSON(func(s *Snapshot, key string) { s.Key = key }),
	adapt: func(s Snapshot) filter.Adaptor {
		kind := map[storage.Kind]string{storage.Active: "active", storage.View: "view", storage.Committed: "committed"}[s.Kind]
		return adaptor(map[string]string{"kind": kind, "name": s.Key, "parent": s.Parent}, s.Labels)
	},
}

func (tx *Tx) Snapshots(ns, driver string) Snapshots {
	r := namespaced(tx, &snapshots, ns)
	r.scope += driver + separator
	if r.err == nil && ValidateIdentifier("snapshotter", driver) != nil {
		r.err = ValidateIdentifier("snapshotter", driver)
	}
	return Snapshots{r, driver}
}

func (s Snapshots) Get(key string) (Snapshot, error) {
	return s.rows.get(key)
}

func (s Snapshots) List(filters ...string) ([]Snapshot, error) {
	return s.rows.page("", 0, filters)
}

// Page lists at most limit snapshots (0: all) whose keys come after after.
func (s Snapshots) Page(after string, limit int, filters ...string) ([]Snapshot, error) {
	return s.rows.page(after, limit, filters)
}

// Layer is what drivers take: the snapshot's layer and its parents, nearest first.
func (s Snapshots) Layer(key string) (storage.Layer, error) {
	snapshot, err := s.rows.get(key)
	if err != nil {
		return storage.Layer{}, err
	}
	return s.layer(snapshot)
}

func (s Snapshots) layer(snapshot Snapshot) (storage.Layer, error) {
	l := storage.Layer{
		ID: snapshot.LayerID, Kind: snapshot.Kind,
		UIDMap: snapshot.Labels[labelUIDMap], GIDMap: snapshot.Labels[labelGIDMap],
		Unpack: snapshot.Kind == storage.Active && strings.HasPrefix(snapshot.Key, unpackKeyPrefix),
	}
	for k, v := range snapshot.Labels {
		if strings.HasPrefix(k, labelInherited) || k == labelSnapshotRef {
			if l.Labels == nil {
				l.Labels = map[string]string{}
			}
			l.Labels[k] = v
		}
	}
	for key := snapshot.Parent; key != ""; {
		parent, err := s.rows.get(key)
		if err != nil {
			return storage.Layer{}, fmt.Errorf("cannot follow the parents of snapshot %q: %w", snapshot.Key, err)
		}
		if len(l.Parents) == maxDepth {
			return storage.Layer{}, fmt.Errorf("snapshot %q has more than %d parents: %w", snapshot.Key, maxDepth, errdefs.ErrFailedPrecondition)
		}
		l.Parents = append(l.Parents, parent.LayerID)
		key = parent.Parent
	}
	return l, nil
}

// Prepare records an active snapshot or a view on parent ("" for none) and chooses its layer id; the caller then has the
// driver create the layer. NotFound without the parent, FailedPrecondition when it is not committed, AlreadyExists when the key
// is taken or the label containerd.io/snapshot.ref names a snapshot that is there; that one joins the lease even so.
func (s Snapshots) Prepare(key, parent string, kind storage.Kind, labels map[string]string) (Snapshot, storage.Layer, error) {
	snapshot := Snapshot{Key: key, Kind: kind, Parent: parent, Labels: nonEmpty(labels), CreatedAt: s.rows.tx.now, UpdatedAt: s.rows.tx.now}
	fail := func(err error) (Snapshot, storage.Layer, error) { return Snapshot{}, storage.Layer{}, err }
	if kind != storage.Active && kind != storage.View {
		return fail(invalid("snapshot %q can be prepared as active or view only", shorten(key)))
	}
	if err := ValidateLabels(labels); err != nil {
		return fail(err)
	}
	if target := labels[labelSnapshotRef]; target != "" {
		if err := s.rows.vacant(target, s.resource()); err != nil {
			return fail(err)
		}
	}
	if err := s.rows.vacant(key, s.resource()); err != nil {
		return fail(err)
	}
	if err := s.checkParent(key, parent); err != nil {
		return fail(err)
	}
	layer, err := s.layer(snapshot) // before anything is written: a failure then costs nobody a second try
	if err != nil {
		return fail(err)
	}
	id, err := s.rows.tx.next("layers" + separator + s.driver)
	if err != nil {
		return fail(err)
	}
	snapshot.LayerID = strconv.FormatUint(id, 36)
	layer.ID = snapshot.LayerID
	if err := errors.Join(s.rows.create(key, s.resource(), snapshot), s.link(layer)); err != nil {
		return fail(err)
	}
	return snapshot, layer, nil
}

func (s Snapshots) checkParent(key, parent string) error {
	if parent == "" {
		return nil
	}
	p, err := s.rows.get(parent)
	if err != nil {
		return fmt.Errorf("cannot use the parent of snapshot %q: %w", key, err)
	}
	if p.Kind != storage.Committed {
		return fmt.Errorf("cannot use the parent of snapshot %q: %q is not committed: %w", key, parent, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// Commit turns the active snapshot key into the committed one called name: the key goes, the layer id stays. The caller has
// sealed the layer before. AlreadyExists when name is taken, in which case it joins the lease; FailedPrecondition when key is
// not active.
func (s Snapshots) Commit(name, key string, o CommitOptions) (Snapshot, error) {
	if err := ValidateLabels(o.Labels); err != nil {
		return Snapshot{}, err
	}
	if err := s.rows.vacant(name, s.resource()); err != nil {
		return Snapshot{}, err
	}
	active, err := s.rows.get(key)
	if err != nil {
		return Snapshot{}, err
	}
	if active.Kind != storage.Active {
		return Snapshot{}, s.rows.cannot("commit", key, fmt.Errorf("it is not active: %w", errdefs.ErrFailedPrecondition))
	}
	committed := active
	committed.Key, committed.Kind, committed.Usage, committed.Labels = name, storage.Committed, o.Usage, nonEmpty(o.Labels)
	committed.CreatedAt, committed.UpdatedAt = s.rows.tx.now, s.rows.tx.now
	var rebased storage.Layer
	if o.Parent != "" && o.Parent != active.Parent {
		if active.Parent != "" {
			return Snapshot{}, s.rows.cannot("commit", key, fmt.Errorf("it was prepared on %q, so it cannot be put on %q: %w", active.Parent, o.Parent, errdefs.ErrFailedPrecondition))
		}
		if err := s.checkParent(name, o.Parent); err != nil {
			return Snapshot{}, err
		}
		committed.Parent = o.Parent
		if rebased, err = s.layer(committed); err != nil {
			return Snapshot{}, err
		}
	}
	return committed, errors.Join(s.drop(active), s.rows.create(name, s.resource(), committed), s.link(rebased))
}

// Update changes labels: fieldpaths are "labels" (also when there are none) or "labels.<key>".
func (s Snapshots) Update(snapshot Snapshot, fieldpaths ...string) (Snapshot, error) {
	old, err := s.rows.get(snapshot.Key)
	if err != nil {
		return Snapshot{}, err
	}
	if err := relabel("snapshot", &old.Labels, snapshot.Labels, fieldpaths); err != nil {
		return Snapshot{}, err
	}
	old.UpdatedAt = s.rows.tx.now
	return old, s.rows.put(old.Key, old)
}

// Measured records what a committed snapshot takes, where that was not known when it was committed.
func (s Snapshots) Measured(key string, usage storage.Usage) error {
	snapshot, err := s.rows.get(key)
	if err != nil {
		return err
	}
	if snapshot.Kind != storage.Committed {
		return s.rows.cannot("record what is used by", key, fmt.Errorf("it is not committed: %w", errdefs.ErrFailedPrecondition))
	}
	snapshot.Usage = usage
	return s.rows.put(key, snapshot)
}

// Remove answers what it removed; the caller then, after the commit, has the driver remove LayerID. FailedPrecondition when
// other snapshots are built on it.
func (s Snapshots) Remove(key string) (Snapshot, error) {
	snapshot, err := s.rows.get(key)
	if err != nil {
		return Snapshot{}, err
	}
	if s.hasChildren(snapshot) {
		return Snapshot{}, s.rows.cannot("remove", key, fmt.Errorf("other snapshots are built on it, remove those first: %w", errdefs.ErrFailedPrecondition))
	}
	if snapshot.Parent != "" {
		parent, err := s.rows.get(snapshot.Parent)
		if err != nil {
			return Snapshot{}, s.rows.cannot("remove", key, err)
		}
		if err := s.rows.tx.remove(bucketChildren, s.child(parent.LayerID, snapshot.LayerID)); err != nil {
			return Snapshot{}, err
		}
	}
	return snapshot, s.drop(snapshot)
}

// drop takes a record away. Its layer keeps its place in the graph.
func (s Snapshots) drop(snapshot Snapshot) error {
	return errors.Join(
		s.rows.delete(snapshot.Key),
		s.rows.tx.leave(s.rows.ns, Resource{Type: s.resource(), ID: snapshot.Key}),
	)
}

func (s Snapshots) hasChildren(snapshot Snapshot) bool {
	return s.rows.tx.holds(bucketChildren, s.child(snapshot.LayerID, ""))
}

// link notes that l is built on its parent, if it has one.
func (s Snapshots) link(l storage.Layer) error {
	if len(l.Parents) == 0 {
		return nil
	}
	return s.rows.tx.put(bucketChildren, s.child(l.Parents[0], l.ID), nil)
}

// child is a key of bucketChildren: of layer ids, which are short and stay when a snapshot is committed.
func (s Snapshots) child(parent, layer string) string {
	return s.driver + separator + parent + separator + layer
}

func (s Snapshots) resource() string { return ResourceSnapshots + s.driver }
