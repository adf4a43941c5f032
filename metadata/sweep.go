package metadata

import (
	"errors"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// slice is one write transaction of a collection. It is made anew when the transaction runs again.
type slice struct {
	*collection
	seen    int    // as in collection
	looked  int    // nodes of the work that are done
	parents []node // snapshots that may have lost their last child
	blobs   []digest.Digest
	layers  []layerOf
	ingests []string
	removed []Removed
}

type layerOf struct{ driver, id string }

// run removes those of work that are still garbage, and stops early when that takes long.
func (s *slice) run(tx *Tx, work []node) error {
	touched := s.db.tracker.touched
	if err := s.revive(tx, touched[s.collection.seen:]); err != nil {
		return err
	}
	s.seen = len(touched)
	begun := time.Now()
	for _, n := range work {
		if s.looked > sliceMin && time.Since(begun) > sliceHold/2 {
			return nil
		}
		s.looked++
		if _, garbage := s.garbage[n]; !garbage {
			continue
		}
		if err := s.remove(tx, n); err != nil {
			return err
		}
	}
	return nil
}

// remove deletes the record of n, unless it is gone, or a snapshot with children: it comes again after the last of them.
func (s *slice) remove(tx *Tx, n node) error {
	ns, driver, name := n.split()
	kind := n.bucket
	var err error
	switch n.bucket {
	case bucketBlobs:
		kind = ResourceContent
		var last bool
		if last, err = tx.Blobs(ns).Delete(digest.Digest(name)); last && err == nil {
			s.blobs = append(s.blobs, digest.Digest(name))
		}
	case bucketSnapshots:
		kind = ResourceSnapshots + driver
		var snapshot Snapshot
		switch snapshot, err = tx.Snapshots(ns, driver).Remove(name); {
		case errors.Is(err, errdefs.ErrFailedPrecondition): // it has children
			return nil
		case err == nil:
			s.layers = append(s.layers, layerOf{driver, snapshot.LayerID})
			if snapshot.Parent != "" {
				s.parents = append(s.parents, snapshotNode(ns, driver, snapshot.Parent))
			}
		}
	case bucketIngests:
		var ingest Ingest
		if ingest, err = tx.Ingests(ns).Delete(name); err == nil {
			s.ingests = append(s.ingests, ingest.StoreRef)
		}
	case bucketImages:
		err = tx.Images(ns).Delete(name, "")
	case bucketLeases:
		err = tx.Leases(ns).Delete(name)
	}
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	s.removed = append(s.removed, Removed{ns, Resource{Type: kind, ID: name}})
	return err
}

func (s *slice) addTo(out *Collected) {
	out.Blobs = append(out.Blobs, s.blobs...)
	out.Ingests = append(out.Ingests, s.ingests...)
	out.Removed = append(out.Removed, s.removed...)
	for _, l := range s.layers {
		out.Layers[l.driver] = append(out.Layers[l.driver], l.id)
	}
}
