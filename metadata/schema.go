package metadata

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"
)

// Buckets of the file, all at the top. Parts of a key are joined by a NUL byte, which no name may hold. Values are JSON but
// for containers and sandboxes (see codec.go).
const (
	bucketMeta       = "meta"       // "schema" → version, 8 bytes big-endian
	bucketSequences  = "sequences"  // name → last number given out, 8 bytes big-endian
	bucketNamespaces = "namespaces" // name
	bucketImages     = "images"     // namespace, name
	bucketContainers = "containers" // namespace, id
	bucketSandboxes  = "sandboxes"  // namespace, id
	bucketSnapshots  = "snapshots"  // namespace, driver, key
	bucketChildren   = "children"   // driver, layer id of the parent, layer id of the child → empty
	bucketLeases     = "leases"     // namespace, id
	bucketLeased     = "leased"     // namespace, lease, type of the resource, its id → empty
	bucketBlobs      = "blobs"      // namespace, digest
	bucketIngests    = "ingests"    // namespace, ref
)

const (
	separator = "\x00"
	keySchema = "schema"
)

// buckets are those of the newest schema but for bucketMeta.
var buckets = []string{bucketSequences, bucketNamespaces, bucketImages, bucketContainers, bucketSandboxes, bucketSnapshots,
	bucketChildren, bucketLeases, bucketLeased, bucketBlobs, bucketIngests}

// migrations lead from one schema to the next: the n-th makes n+1 of n, the first makes a file of nothing.
var migrations = []func(*bbolt.Tx) error{
	func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	},
	shortenChildren,
}

// shortenChildren makes schema 2: keys of the children bucket were namespaces, drivers and snapshots' keys, and so long that this
// index was a third of what the start of a container wrote. A snapshot that cannot be read is left out, as nothing can be done with it.
func shortenChildren(tx *bbolt.Tx) error {
	if err := tx.DeleteBucket([]byte(bucketChildren)); err != nil {
		return err
	}
	children, err := tx.CreateBucket([]byte(bucketChildren))
	if err != nil {
		return err
	}
	snapshots := tx.Bucket([]byte(bucketSnapshots))
	return snapshots.ForEach(func(key, data []byte) error {
		var child, parent struct{ Layer, Parent string }
		scope := strings.SplitAfterN(string(key), separator, 3) // namespace, driver, key
		if json.Unmarshal(data, &child) != nil || child.Parent == "" || len(scope) != 3 {
			return nil
		}
		if json.Unmarshal(snapshots.Get([]byte(scope[0]+scope[1]+child.Parent)), &parent) != nil {
			return nil
		}
		return children.Put([]byte(scope[1]+parent.Layer+separator+child.Layer), nil)
	})
}

// migrate brings the file to the schema after the last step, in one transaction.
func migrate(b *bbolt.DB, steps []func(*bbolt.Tx) error) error {
	newest := uint64(len(steps))
	version, err := schema(b)
	if err != nil || version == newest {
		return err
	}
	if version > newest {
		return fmt.Errorf("a newer Slipway wrote it (schema %d, this one knows up to %d): start that version again: %w",
			version, newest, errdefs.ErrFailedPrecondition)
	}
	return b.Update(func(tx *bbolt.Tx) error {
		for ; version < newest; version++ {
			if err := steps[version](tx); err != nil {
				return fmt.Errorf("cannot migrate from schema %d: %w", version, err)
			}
		}
		meta, err := tx.CreateBucketIfNotExists([]byte(bucketMeta))
		if err != nil {
			return err
		}
		return meta.Put([]byte(keySchema), binary.BigEndian.AppendUint64(nil, version))
	})
}

// schema answers the version of the file, 0 for an empty one.
func schema(b *bbolt.DB) (version uint64, err error) {
	err = b.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket([]byte(bucketMeta))
		if meta == nil {
			if k, _ := tx.Cursor().First(); k != nil {
				return fmt.Errorf("another program wrote it (it has a bucket %q): choose another --root: %w", k, errdefs.ErrFailedPrecondition)
			}
			return nil
		}
		v := meta.Get([]byte(keySchema))
		if len(v) != 8 {
			return fmt.Errorf("it has no schema version: %w", errdefs.ErrDataLoss)
		}
		version = binary.BigEndian.Uint64(v)
		return nil
	})
	return version, err
}

// complete is DataLoss when a bucket is missing.
func complete(b *bbolt.DB) error {
	return b.View(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			if tx.Bucket([]byte(name)) == nil {
				return fmt.Errorf("it has no bucket %q: %w", name, errdefs.ErrDataLoss)
			}
		}
		return nil
	})
}
