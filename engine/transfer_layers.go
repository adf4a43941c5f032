package engine

import (
	"context"
	"crypto/rand"
	"io"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/storage"
)

// targetLabel tells on a snapshot which chain ID it is for (containerd's pkg/labels).
const targetLabel = "containerd.io/snapshot.ref"

// imageLayers are the snapshots of one driver as package image unpacks into them: committed ones are named by chain ID.
type imageLayers struct {
	s    *Snapshots
	lazy *lazyPull // nil when all layers are to be here
}

var _ image.LazyLayers = imageLayers{}

func (e *Engine) layers(sc Scope, driver string) (imageLayers, error) {
	if driver == "" {
		driver = e.defaultDriver
	}
	s, err := e.Snapshots(sc, driver)
	return imageLayers{s: s}, err
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

// Stage prepares a snapshot under a random key. Only one caller at a time unpacks a chain; the next one finds it done. That
// cannot deadlock, because who has a chain waits only for chains below it.
func (l imageLayers) Stage(ctx context.Context, layer image.Layer) (_ image.Staged, err error) {
	unlock, err := l.s.e.locks.lock(ctx, "unpack/"+l.s.name+"/"+l.s.scope.Namespace+"/"+layer.Chain.String())
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unlock()
		}
	}()
	staged := &stagedLayer{layers: l, layer: layer, unlock: sync.OnceFunc(unlock)}
	if done, err := l.Has(ctx, layer.Chain); err != nil || done {
		return staged, err
	}
	staged.key = "extract-" + rand.Text() + " " + layer.Chain.String()
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
	unlock func()
	key    string // empty when somebody else unpacked the chain meanwhile: there is nothing to do
	usage  storage.Usage
	index  string // its kind, when the layer is not here
}

func (s *stagedLayer) Apply(ctx context.Context, diff io.Reader) (err error) {
	if s.key != "" {
		s.usage, err = s.layers.s.Apply(ctx, s.key, diff)
	}
	return err
}

// Commit names the snapshot by its chain ID. What Apply wrote is durable, so there is nothing to seal. When a client of the
// API has committed that name by itself, its snapshot serves as well.
func (s *stagedLayer) Commit(ctx context.Context) error {
	if s.key == "" {
		s.unlock()
		return nil
	}
	err := s.commit(ctx)
	switch {
	case err == nil:
		s.unlock()
		return nil
	case errdefs.IsAlreadyExists(err):
		if _, err := s.layers.Has(ctx, s.layer.Chain); err != nil {
			return err
		}
		return s.Abort(ctx)
	}
	return err // and the caller aborts
}

func (s *stagedLayer) commit(ctx context.Context) error {
	snapshots, name := s.layers.s, s.layer.Chain.String()
	o := metadata.CommitOptions{Usage: s.usage, Labels: map[string]string{targetLabel: name}}
	if s.index != "" {
		o.Labels[LabelLazyIndex] = s.index
	} else if reason := s.layers.lazy.reason(s.layer.Chain); reason != "" {
		o.Labels[LabelLazyReason] = reason
	}
	if s.layers.Independent() {
		o.Parent = s.layer.Parent.String()
	}
	unlock, err := snapshots.lock(ctx, s.key)
	if err != nil {
		return err
	}
	defer unlock()
	err = snapshots.e.db.Update(snapshots.scope.ctx(ctx), func(tx *metadata.Tx) error {
		_, err := snapshots.records(tx).Commit(name, s.key, o)
		return err
	})
	if err != nil {
		return err
	}
	snapshots.e.publish(snapshots.scope.Namespace, "/snapshot/commit", SnapshotCommit{Key: s.key, Name: name, Snapshotter: snapshots.name})
	if s.index != "" {
		snapshots.tellAttached(s.layer, s.index)
	}
	return nil
}

func (s *stagedLayer) Abort(ctx context.Context) error {
	defer s.unlock()
	if s.key == "" {
		return nil
	}
	return s.layers.s.Remove(ctx, s.key)
}
