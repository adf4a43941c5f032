package metadata

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/metadata/filter"
)

const labelShareable = "containerd.io/namespace.shareable"

// Blobs is what one namespace sees of the content store.
type Blobs struct {
	rows rows[Blob]
}

var blobs = table[Blob]{
	bucket: bucketBlobs, noun: "blob", pin: "digest", maxSize: maxRecord,
	encode: encodeJSON[Blob],
	decode: decodeJSON(func(b *Blob, key string) { b.Digest = digest.Digest(key) }),
	adapt: func(b Blob) filter.Adaptor {
		return adaptor(map[string]string{"digest": string(b.Digest), "size": strconv.FormatInt(b.Size, 10)}, b.Labels)
	},
}

func (tx *Tx) Blobs(ns string) Blobs {
	return Blobs{namespaced(tx, &blobs, ns)}
}

func (b Blobs) Get(d digest.Digest) (Blob, error) {
	return b.rows.get(string(d))
}

func (b Blobs) List(filters ...string) ([]Blob, error) {
	return b.rows.page("", 0, filters)
}

// Page lists at most limit blobs (0: all) whose digests come after after.
func (b Blobs) Page(after digest.Digest, limit int, filters ...string) ([]Blob, error) {
	return b.rows.page(string(after), limit, filters)
}

// Create sets the times. It is AlreadyExists when the namespace has the blob, which then joins the lease of the transaction
// although Update undoes everything else. The content store has the blob already, and the caller holds it (DB.Hold).
func (b Blobs) Create(blob Blob) (Blob, error) {
	blob.Labels = nonEmpty(blob.Labels)
	if err := errors.Join(ValidateDigest(blob.Digest), ValidateLabels(blob.Labels)); err != nil {
		return Blob{}, err
	}
	if blob.Size < 0 {
		return Blob{}, invalid("blob %s cannot have %d bytes", blob.Digest, blob.Size)
	}
	blob.CreatedAt = b.rows.tx.now
	blob.UpdatedAt = blob.CreatedAt
	return blob, b.rows.create(string(blob.Digest), ResourceContent, blob)
}

// Lease has a blob that is there join the lease of the transaction; NotFound when it is not there.
func (b Blobs) Lease(d digest.Digest) error {
	if _, err := b.rows.get(string(d)); err != nil {
		return err
	}
	return b.rows.tx.join(b.rows.ns, b.rows.tx.lease, Resource{Type: ResourceContent, ID: string(d)})
}

// Update changes labels: fieldpaths are "labels" (also when there are none) or "labels.<key>".
func (b Blobs) Update(blob Blob, fieldpaths ...string) (Blob, error) {
	old, err := b.rows.get(string(blob.Digest))
	if err != nil {
		return Blob{}, err
	}
	if err := relabel("blob", &old.Labels, blob.Labels, fieldpaths); err != nil {
		return Blob{}, err
	}
	old.UpdatedAt = b.rows.tx.now
	return old, b.rows.put(string(old.Digest), old)
}

// Delete answers whether this was the last namespace's record: after the commit the digest goes to DB.Reap.
func (b Blobs) Delete(d digest.Digest) (last bool, err error) {
	if err := b.rows.delete(string(d)); err != nil {
		return false, err
	}
	if err := b.rows.tx.leave(b.rows.ns, Resource{Type: ResourceContent, ID: string(d)}); err != nil {
		return false, err
	}
	owners, err := b.rows.tx.Owners(d)
	return len(owners) == 0, err
}

// Shared answers the blob of another namespace that this one may take: any unless the DB isolates namespaces, in which case
// blob or namespace must have the label containerd.io/namespace.shareable=true. NotFound when there is none.
func (b Blobs) Shared(d digest.Digest) (Blob, error) {
	if b.rows.err != nil {
		return Blob{}, b.rows.err
	}
	owners, err := b.rows.tx.Owners(d)
	if err != nil {
		return Blob{}, err
	}
	for _, ns := range owners {
		if ns == b.rows.ns {
			continue
		}
		blob, err := b.rows.tx.Blobs(ns).Get(d)
		if err != nil {
			return Blob{}, err
		}
		owner, err := b.rows.tx.Namespaces().Get(ns)
		if err != nil {
			return Blob{}, err
		}
		if !b.rows.tx.db.options.Isolated || blob.Labels[labelShareable] == "true" || owner.Labels[labelShareable] == "true" {
			return blob, nil
		}
	}
	return Blob{}, fmt.Errorf("no other namespace shares blob %s: %w", d, errdefs.ErrNotFound)
}

// Owners answers the namespaces that have a record of d.
func (tx *Tx) Owners(d digest.Digest) (list []string, err error) {
	err = tx.scan(bucketNamespaces, "", "", func(ns string, _ []byte) (bool, error) {
		if tx.get(bucketBlobs, ns+separator+string(d)) != nil {
			list = append(list, ns)
		}
		return true, nil
	})
	return list, err
}
