package metadata

import (
	"errors"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/metadata/filter"
)

const (
	ingestLife  = 24 * time.Hour // of an ingest that no lease holds, since it was last opened
	ingestRenew = time.Hour      // how much of it has to be gone for Open to write a record again
)

// Ingests are the blobs that clients of one namespace write.
type Ingests struct {
	rows rows[Ingest]
}

var ingests = table[Ingest]{
	bucket: bucketIngests, noun: "ingest", pin: "ref", maxSize: maxRecord,
	encode: encodeJSON[Ingest],
	decode: decodeJSON(func(i *Ingest, key string) { i.Ref = key }),
	adapt: func(i Ingest) filter.Adaptor {
		return adaptor(map[string]string{"ref": i.Ref}, nil)
	},
}

func (tx *Tx) Ingests(ns string) Ingests {
	return Ingests{namespaced(tx, &ingests, ns)}
}

func (i Ingests) Get(ref string) (Ingest, error) {
	return i.rows.get(ref)
}

func (i Ingests) List(filters ...string) ([]Ingest, error) {
	return i.rows.page("", 0, filters)
}

// Page lists at most limit ingests (0: all) whose refs come after after.
func (i Ingests) Page(after string, limit int, filters ...string) ([]Ingest, error) {
	return i.rows.page(after, limit, filters)
}

// Create records an ingest of Ref and Expected. It chooses StoreRef, never the same twice, and gives an ingest that no lease holds a
// day. AlreadyExists when the ref is there.
func (i Ingests) Create(ingest Ingest) (Ingest, error) {
	if ingest.Expected != "" {
		if err := ValidateDigest(ingest.Expected); err != nil {
			return Ingest{}, err
		}
	}
	if err := i.rows.vacant(ingest.Ref, ResourceIngests); err != nil {
		return Ingest{}, err
	}
	n, err := i.rows.tx.next("ingests")
	if err != nil {
		return Ingest{}, err
	}
	ingest.StoreRef = "i" + strconv.FormatUint(n, 36)
	ingest.CreatedAt = i.rows.tx.now
	ingest.ExpiresAt = time.Time{}
	if i.rows.tx.lease == "" {
		ingest.ExpiresAt = ingest.CreatedAt.Add(ingestLife)
	}
	return ingest, i.rows.create(ingest.Ref, ResourceIngests, ingest)
}

// Open answers the ingest Ref, which it creates when it is not there. One that is there gets its day anew, or joins the lease, and a
// new Expected.
func (i Ingests) Open(ingest Ingest) (Ingest, error) {
	old, err := i.rows.get(ingest.Ref)
	if errors.Is(err, errdefs.ErrNotFound) {
		return i.Create(ingest)
	}
	if err != nil {
		return Ingest{}, err
	}
	lease, now := i.rows.tx.lease, i.rows.tx.now
	if err := i.rows.tx.join(i.rows.ns, lease, Resource{Type: ResourceIngests, ID: old.Ref}); err != nil {
		return Ingest{}, err
	}
	next := old
	if lease == "" && old.ExpiresAt.Before(now.Add(ingestLife-ingestRenew)) && !old.ExpiresAt.IsZero() {
		next.ExpiresAt = now.Add(ingestLife)
	}
	if ingest.Expected != "" {
		if err := ValidateDigest(ingest.Expected); err != nil {
			return Ingest{}, err
		}
		next.Expected = ingest.Expected
	}
	if next == old {
		return old, nil
	}
	return next, i.rows.put(next.Ref, next)
}

// Delete answers what it removed: after the commit its StoreRef is to be aborted, unless it was committed.
func (i Ingests) Delete(ref string) (Ingest, error) {
	ingest, err := i.rows.get(ref)
	if err != nil {
		return Ingest{}, err
	}
	return ingest, errors.Join(i.rows.delete(ref), i.rows.tx.leave(i.rows.ns, Resource{Type: ResourceIngests, ID: ref}))
}
