package engine

import (
	"context"
	"crypto/rand"
	"io"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/storage"
)

// targetLabel tells on a snapshot which chain ID it is for (containerd's pkg/labels).
const targetLabel = "containerd.io/snapshot.ref"

// imageLayers are the snapshots of one driver as package image unpacks into them: committed ones are named by chain ID.
type imageLayers struct{ s *Snapshots }

var _ image.Layers = imageLayers{}

func (e *Engine) layers(sc Scope, driver string) (imageLayers, error) {
	if driver == "" {
		driver = e.defaultDriver
	}
	s, err := e.Snapshots(sc, driver)
	return imageLayers{s}, err
}

func (l imageLayers) Driver() string    { return l.s.name }
func (l imageLayers) Independent() bool { return l.s.CanRebase() }

// Has looks and puts under the lease in one transaction, so that collection cannot come between. Only a hit writes.
func (l imageLayers) Has(ctx context.Context, chain digest.Digest) (bool, error) {
	if _, err := l.s.Stat(ctx, chain.String()); errdefs.IsNotFound(err) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	sc := l.s.scope
	return update(ctx, l.s.e, func(tx *metadata.Tx) (bool, error) {
		found, err := l.s.records(tx).Get(chain.String())
		if errdefs.IsNotFound(err) || err == nil && found.Kind != storage.Committed {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		r := metadata.Resource{Type: "snapshots/" + l.s.name, ID: chain.String()}
		return true, tx.Leases(sc.Namespace).AddResource(sc.Lease, r)
	})
}

// Stage prepares a snapshot under a random key: two pulls of one image do not get into each other's way.
func (l imageLayers) Stage(ctx context.Context, layer image.Layer) (image.Staged, error) {
	staged := &stagedLayer{layers: l, layer: layer, key: "extract-" + rand.Text() + " " + layer.Chain.String()}
	parent := layer.Parent.String()
	if l.Independent() {
		parent = ""
	}
	if _, err := l.s.Prepare(ctx, staged.key, parent, nil); err != nil {
		return nil, err
	}
	return staged, nil
}

// stagedLayer is an active snapshot that a layer is unpacked into.
type stagedLayer struct {
	layers imageLayers
	layer  image.Layer
	key    string
	usage  storage.Usage
}

func (s *stagedLayer) Apply(ctx context.Context, diff io.Reader) (err error) {
	s.usage, err = s.layers.s.Apply(ctx, s.key, diff)
	return err
}

// Commit names the snapshot by its chain ID. What Apply wrote is durable, so there is nothing to seal.
func (s *stagedLayer) Commit(ctx context.Context) error {
	snapshots, name := s.layers.s, s.layer.Chain.String()
	o := metadata.CommitOptions{Usage: s.usage, Labels: map[string]string{targetLabel: name}}
	if s.layers.Independent() {
		o.Parent = s.layer.Parent.String()
	}
	unlock, err := snapshots.lock(ctx, s.key)
	if err != nil {
		return err
	}
	err = snapshots.e.db.Update(snapshots.scope.ctx(ctx), func(tx *metadata.Tx) error {
		_, err := snapshots.records(tx).Commit(name, s.key, o)
		return err
	})
	unlock()
	if errdefs.IsAlreadyExists(err) {
		if err := s.Abort(ctx); err != nil {
			return err
		}
		_, err := s.layers.Has(ctx, s.layer.Chain)
		return err
	}
	if err != nil {
		return err
	}
	snapshots.e.publish(snapshots.scope.Namespace, "/snapshot/commit", SnapshotCommit{Key: s.key, Name: name, Snapshotter: snapshots.name})
	return nil
}

func (s *stagedLayer) Abort(ctx context.Context) error { return s.layers.s.Remove(ctx, s.key) }
