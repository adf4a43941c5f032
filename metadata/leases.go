package metadata

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/metadata/filter"
)

// Types of a Resource.
const (
	ResourceContent   = "content"
	ResourceIngests   = "ingests"
	ResourceImages    = "images"
	ResourceSnapshots = "snapshots/" // and the name of the driver
)

// Leases are those of one namespace.
type Leases struct {
	rows rows[Lease]
}

var leases = table[Lease]{
	bucket: bucketLeases, noun: "lease", pin: "id", maxSize: maxRecord,
	encode: encodeJSON[Lease],
	decode: decodeJSON(func(l *Lease, key string) { l.ID = key }),
	adapt: func(l Lease) filter.Adaptor {
		return adaptor(map[string]string{"id": l.ID}, l.Labels)
	},
}

func (tx *Tx) Leases(ns string) Leases {
	return Leases{namespaced(tx, &leases, ns)}
}

func (l Leases) Get(id string) (Lease, error) {
	return l.rows.get(id)
}

func (l Leases) List(filters ...string) ([]Lease, error) {
	return l.rows.page("", 0, filters)
}

// Page lists at most limit leases (0: all) whose ids come after after.
func (l Leases) Page(after string, limit int, filters ...string) ([]Lease, error) {
	return l.rows.page(after, limit, filters)
}

// Create sets the time. An id can be any name.
func (l Leases) Create(lease Lease) (Lease, error) {
	lease.Labels = nonEmpty(lease.Labels)
	if err := ValidateLabels(lease.Labels); err != nil {
		return Lease{}, err
	}
	lease.CreatedAt = l.rows.tx.now
	return lease, l.rows.create(lease.ID, "", lease)
}

// Delete ends the lease; what it held goes with the next collection, unless something else holds it.
func (l Leases) Delete(id string) error {
	if err := l.rows.delete(id); err != nil {
		return err
	}
	resources, err := l.resources(id)
	for _, r := range resources {
		err = errors.Join(err, l.rows.tx.remove(bucketLeased, l.rows.scope+id+separator+r.Type+separator+r.ID))
	}
	return err
}

// AddResource is nil when the lease has it already. What it names need not be there (yet).
func (l Leases) AddResource(id string, r Resource) error {
	if err := l.check(id, r); err != nil {
		return err
	}
	return l.rows.tx.join(l.rows.ns, id, r)
}

// RemoveResource is nil when the lease does not have it.
func (l Leases) RemoveResource(id string, r Resource) error {
	if err := l.check(id, r); err != nil {
		return err
	}
	return l.rows.tx.remove(bucketLeased, l.rows.scope+id+separator+r.Type+separator+r.ID)
}

func (l Leases) Resources(id string) ([]Resource, error) {
	if _, err := l.rows.get(id); err != nil {
		return nil, err
	}
	return l.resources(id)
}

func (l Leases) resources(id string) (list []Resource, err error) {
	err = l.rows.tx.scan(bucketLeased, l.rows.scope+id+separator, "", func(key string, _ []byte) (bool, error) {
		kind, id, _ := strings.Cut(key, separator)
		list = append(list, Resource{Type: kind, ID: id})
		return true, nil
	})
	return list, err
}

func (l Leases) check(id string, r Resource) error {
	if _, err := l.rows.get(id); err != nil {
		return err
	}
	driver, isSnapshot := strings.CutPrefix(r.Type, ResourceSnapshots)
	switch {
	case r.Type == ResourceContent:
		return ValidateDigest(digest.Digest(r.ID))
	case r.Type == ResourceIngests, r.Type == ResourceImages:
		return validateName(r.Type, r.ID)
	case isSnapshot:
		return errors.Join(ValidateIdentifier("snapshotter", driver), validateName("snapshot", r.ID))
	case r.Type == "snapshots":
		return invalid("a snapshot's resource type is snapshots/ and the snapshotter")
	}
	return fmt.Errorf("a lease cannot hold resources of type %q: %w", shorten(r.Type), errdefs.ErrNotImplemented)
}

// leasedError is an AlreadyExists after which Update, having undone everything else, has the thing join the lease.
type leasedError struct {
	error
	namespace, lease string
	resource         Resource
}

func (e *leasedError) Unwrap() error { return e.error }

// join adds r to a lease, "" for none. NotFound when there is no such lease.
func (tx *Tx) join(ns, lease string, r Resource) error {
	if lease == "" {
		return nil
	}
	if _, err := tx.Leases(ns).Get(lease); err != nil {
		return err
	}
	if err := tx.put(bucketLeased, ns+separator+lease+separator+r.Type+separator+r.ID, nil); err != nil {
		return err
	}
	tx.db.tracker.touch(resourceNode(ns, r))
	return nil
}

// leave takes r from the lease of the transaction.
func (tx *Tx) leave(ns string, r Resource) error {
	key := ns + separator + tx.lease + separator + r.Type + separator + r.ID
	if tx.lease == "" || tx.get(bucketLeased, key) == nil {
		return nil
	}
	return tx.remove(bucketLeased, key)
}

func resourceNode(ns string, r Resource) node {
	switch r.Type {
	case ResourceContent:
		return node{bucketBlobs, ns + separator + r.ID}
	case ResourceImages:
		return node{bucketImages, ns + separator + r.ID}
	case ResourceIngests:
		return node{bucketIngests, ns + separator + r.ID}
	}
	return snapshotNode(ns, strings.TrimPrefix(r.Type, ResourceSnapshots), r.ID)
}
