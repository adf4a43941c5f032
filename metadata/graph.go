package metadata

import (
	"strings"
	"time"
)

// graph is what one collection knows of who keeps whom beyond what the records themselves say: the edges that are written at
// their far ends.
type graph struct {
	now        time.Time
	backRefs   map[node][]node
	conditions map[node][]condition
}

// roots calls keep for all that lives by itself, with flat for what lives without the things it refers to; and fills the
// graph's maps.
func (g *graph) roots(tx *Tx, keep func(n node, flat bool)) error {
	full := func(n node) { keep(n, false) }
	for _, bucket := range []string{bucketContainers, bucketSandboxes} {
		if err := tx.scan(bucket, "", "", func(key string, _ []byte) (bool, error) {
			full(node{bucket, key})
			return true, nil
		}); err != nil {
			return err
		}
	}
	if err := tx.scan(bucketLeases, "", "", func(key string, data []byte) (bool, error) {
		lease, err := leases.read(key, data)
		if past, _ := expired(lease.Labels, g.now); !past {
			full(node{bucketLeases, key})
		}
		return true, err
	}); err != nil {
		return err
	}
	if err := tx.scan(bucketIngests, "", "", func(key string, data []byte) (bool, error) {
		ingest, err := ingests.read(key, data)
		if ingest.ExpiresAt.After(g.now) {
			full(node{bucketIngests, key})
		}
		return true, err
	}); err != nil {
		return err
	}
	if err := tx.scan(bucketImages, "", "", func(key string, data []byte) (bool, error) {
		image, err := images.read(key, data)
		if past, _ := expired(image.Labels, g.now); !past {
			full(node{bucketImages, key})
		}
		g.farEdges(node{bucketImages, key}, image.Labels)
		return true, err
	}); err != nil {
		return err
	}
	if err := scanSteered(tx, &blobs, func(n node, b Blob) { g.steer(n, b.Labels, full) }); err != nil {
		return err
	}
	return scanSteered(tx, &snapshots, func(n node, s Snapshot) { g.steer(n, s.Labels, full) })
}

// scanSteered calls fn for records whose labels say something about themselves, as few do.
func scanSteered[T any](tx *Tx, t *table[T], fn func(node, T)) error {
	return tx.scan(t.bucket, "", "", func(key string, data []byte) (bool, error) {
		if !steersItself(data) {
			return true, nil
		}
		record, err := t.read(key, data)
		if err == nil {
			fn(node{t.bucket, key}, record)
		}
		return true, err
	})
}

func (g *graph) steer(n node, labels map[string]string, keep func(node)) {
	if rooted(labels, g.now) {
		keep(n)
	}
	g.farEdges(n, labels)
}

func (g *graph) farEdges(n node, labels map[string]string) {
	ns, _, _ := n.split()
	backReferences(ns, labels, func(from node) { g.backRefs[from] = append(g.backRefs[from], n) })
	conditions(ns, n, labels, func(snapshot node, c condition) {
		g.conditions[snapshot] = append(g.conditions[snapshot], c)
	})
}

// edges calls keep for all that n keeps; nothing when there is no such record. flat goes on to parents and targets only.
func (g *graph) edges(tx *Tx, n node, flat bool, keep func(n node, flat bool)) error {
	full := func(n node) { keep(n, false) }
	if !flat {
		for _, b := range g.backRefs[n] {
			full(b)
		}
	}
	data := tx.get(n.bucket, n.key)
	if data == nil {
		return nil
	}
	ns, driver, name := n.split()
	switch n.bucket {
	case bucketBlobs:
		if flat || !steered(data) {
			return nil
		}
		blob, err := blobs.read(name, data)
		references(ns, blob.Labels, full)
		return err
	case bucketSnapshots:
		snapshot, err := snapshots.read(name, data)
		if err != nil {
			return err
		}
		if snapshot.Parent != "" {
			keep(snapshotNode(ns, driver, snapshot.Parent), flat)
		}
		if !flat {
			references(ns, snapshot.Labels, full)
			g.used(n, snapshot.Labels[labelUsedAt], full)
		}
	case bucketImages:
		image, err := images.read(name, data)
		if err != nil {
			return err
		}
		keep(node{bucketBlobs, ns + separator + string(image.Target.Digest)}, flat)
		if !flat {
			references(ns, image.Labels, full)
		}
	case bucketIngests:
		ingest, err := ingests.read(name, data)
		if ingest.Expected != "" {
			full(node{bucketBlobs, ns + separator + string(ingest.Expected)})
		}
		return err
	case bucketContainers:
		container, err := containers.read(name, data)
		if container.SnapshotKey != "" {
			full(snapshotNode(ns, container.Snapshotter, container.SnapshotKey))
		}
		references(ns, container.Labels, full)
		return err
	case bucketSandboxes:
		sandbox, err := sandboxes.read(name, data)
		references(ns, sandbox.Labels, full)
		return err
	case bucketLeases:
		return g.leased(tx, n, data, keep)
	}
	return nil
}

func (g *graph) used(snapshot node, usedAt string, keep func(node)) {
	for _, c := range g.conditions[snapshot] {
		if c.holds(usedAt, g.now) {
			keep(c.dependant)
		}
	}
}

func (g *graph) leased(tx *Tx, n node, data []byte, keep func(n node, flat bool)) error {
	ns, _, name := n.split()
	lease, err := leases.read(name, data)
	if err != nil {
		return err
	}
	_, flat := lease.Labels[labelFlat]
	return tx.scan(bucketLeased, n.key+separator, "", func(key string, _ []byte) (bool, error) {
		kind, id, _ := strings.Cut(key, separator)
		// An ingest has no references but the blob that it becomes, which is what it is leased for.
		keep(resourceNode(ns, Resource{Type: kind, ID: id}), flat && kind != ResourceIngests)
		return true, nil
	})
}
