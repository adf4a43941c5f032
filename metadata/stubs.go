package metadata

import (
	"context"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/storage"
)

type Options struct {
	LockTimeout time.Duration
	Isolated    bool
	Log         *slog.Logger
}

type DB struct{}

func Open(path string, o Options) (*DB, error)                      { return nil, errdefs.ErrNotImplemented }
func (db *DB) Close() error                                         { return errdefs.ErrNotImplemented }
func (db *DB) View(ctx context.Context, fn func(*Tx) error) error   { return errdefs.ErrNotImplemented }
func (db *DB) Update(ctx context.Context, fn func(*Tx) error) error { return errdefs.ErrNotImplemented }

// Collect marks what is reachable and removes the records of the rest.
func (db *DB) Collect(ctx context.Context, o CollectOptions) (Collected, error) {
	return Collected{}, errdefs.ErrNotImplemented
}

// Hold keeps d from being deleted by Reap until release; it waits while d is being deleted. Whoever commits a blob to the
// content store and then creates its record (or finds it there already) holds its digest from before the first to after
// the second.
func (db *DB) Hold(ctx context.Context, d digest.Digest) (release func(), err error) {
	return nil, errdefs.ErrNotImplemented
}

// Reap calls del (content.Store's Delete) for each digest that no namespace has a record of, and that nobody holds. Give it
// Collected.Blobs, the digest for which Blobs.Delete answered last, or at start-up all digests of the content store.
func (db *DB) Reap(ctx context.Context, digests []digest.Digest, del func(context.Context, digest.Digest) error) error {
	return errdefs.ErrNotImplemented
}

type CollectOptions struct{}

type Collected struct {
	Blobs     []digest.Digest     // no namespace has them any more: give them to Reap
	Layers    map[string][]string // by driver: to Driver.Remove
	Ingests   []string            // store refs to Abort
	Removed   []Removed           // every record, for events
	Marked    int
	Duration  time.Duration
	LongestTx time.Duration
}

// Removed is one record that Collect removed. For snapshots Type is snapshots/<driver>.
type Removed struct {
	Namespace string
	Resource
}

// WithLease makes creations under ctx join the lease id of their namespace.
func WithLease(ctx context.Context, id string) context.Context { return ctx }
func LeaseFrom(ctx context.Context) string                     { return "" }

type Tx struct{}

func (tx *Tx) WithLease(id string) *Tx               { return tx }
func (tx *Tx) Namespaces() Namespaces                { return Namespaces{} }
func (tx *Tx) Images(ns string) Images               { return Images{} }
func (tx *Tx) Containers(ns string) Containers       { return Containers{} }
func (tx *Tx) Sandboxes(ns string) Sandboxes         { return Sandboxes{} }
func (tx *Tx) Snapshots(ns, driver string) Snapshots { return Snapshots{} }
func (tx *Tx) Leases(ns string) Leases               { return Leases{} }
func (tx *Tx) Blobs(ns string) Blobs                 { return Blobs{} }
func (tx *Tx) Ingests(ns string) Ingests             { return Ingests{} }

// For start-up: everything that the content store and the drivers should have.
func (tx *Tx) LayerIDs(driver string) (map[string]struct{}, error) {
	return nil, errdefs.ErrNotImplemented
}
func (tx *Tx) Digests() (map[digest.Digest]struct{}, error) { return nil, errdefs.ErrNotImplemented }
func (tx *Tx) StoreRefs() (map[string]struct{}, error)      { return nil, errdefs.ErrNotImplemented }

type Namespaces struct{}

func (Namespaces) Get(name string) (Namespace, error)          { return Namespace{}, errdefs.ErrNotImplemented }
func (Namespaces) List(filters ...string) ([]Namespace, error) { return nil, errdefs.ErrNotImplemented }
func (Namespaces) Create(n Namespace) (Namespace, error) {
	return Namespace{}, errdefs.ErrNotImplemented
}
func (Namespaces) Update(n Namespace, fieldpaths ...string) (Namespace, error) {
	return Namespace{}, errdefs.ErrNotImplemented
}
func (Namespaces) Delete(name string) error { return errdefs.ErrNotImplemented }

type Images struct{}

func (Images) Get(name string) (Image, error)          { return Image{}, errdefs.ErrNotImplemented }
func (Images) List(filters ...string) ([]Image, error) { return nil, errdefs.ErrNotImplemented }
func (Images) Page(after string, limit int, filters ...string) ([]Image, error) {
	return nil, errdefs.ErrNotImplemented
}
func (Images) Create(i Image) (Image, error) { return Image{}, errdefs.ErrNotImplemented }
func (Images) Update(i Image, fieldpaths ...string) (Image, error) {
	return Image{}, errdefs.ErrNotImplemented
}

// Delete with a target other than "" is NotFound when the image has another one.
func (Images) Delete(name string, target digest.Digest) error { return errdefs.ErrNotImplemented }

type Containers struct{}

func (Containers) Get(id string) (Container, error)            { return Container{}, errdefs.ErrNotImplemented }
func (Containers) List(filters ...string) ([]Container, error) { return nil, errdefs.ErrNotImplemented }
func (Containers) Page(after string, limit int, filters ...string) ([]Container, error) {
	return nil, errdefs.ErrNotImplemented
}
func (Containers) Create(c Container) (Container, error) {
	return Container{}, errdefs.ErrNotImplemented
}
func (Containers) Update(c Container, fieldpaths ...string) (Container, error) {
	return Container{}, errdefs.ErrNotImplemented
}
func (Containers) Delete(id string) error { return errdefs.ErrNotImplemented }

type Sandboxes struct{}

func (Sandboxes) Get(id string) (Sandbox, error)            { return Sandbox{}, errdefs.ErrNotImplemented }
func (Sandboxes) List(filters ...string) ([]Sandbox, error) { return nil, errdefs.ErrNotImplemented }
func (Sandboxes) Page(after string, limit int, filters ...string) ([]Sandbox, error) {
	return nil, errdefs.ErrNotImplemented
}
func (Sandboxes) Create(s Sandbox) (Sandbox, error) { return Sandbox{}, errdefs.ErrNotImplemented }
func (Sandboxes) Update(s Sandbox, fieldpaths ...string) (Sandbox, error) {
	return Sandbox{}, errdefs.ErrNotImplemented
}
func (Sandboxes) Delete(id string) error { return errdefs.ErrNotImplemented }

type Snapshots struct{}

func (Snapshots) Get(key string) (Snapshot, error)           { return Snapshot{}, errdefs.ErrNotImplemented }
func (Snapshots) List(filters ...string) ([]Snapshot, error) { return nil, errdefs.ErrNotImplemented }
func (Snapshots) Page(after string, limit int, filters ...string) ([]Snapshot, error) {
	return nil, errdefs.ErrNotImplemented
}
func (Snapshots) Update(s Snapshot, fieldpaths ...string) (Snapshot, error) {
	return Snapshot{}, errdefs.ErrNotImplemented
}

// Prepare records an Active or View snapshot and chooses its layer id; the caller then has the driver create the layer.
// With the label containerd.io/snapshot.ref it is AlreadyExists when a snapshot of that name is there.
func (Snapshots) Prepare(key, parent string, kind storage.Kind, labels map[string]string) (Snapshot, storage.Layer, error) {
	return Snapshot{}, storage.Layer{}, errdefs.ErrNotImplemented
}

// Commit turns the active snapshot key into the committed one called name; the layer id stays.
func (Snapshots) Commit(name, key string, o CommitOptions) (Snapshot, error) {
	return Snapshot{}, errdefs.ErrNotImplemented
}

// Layer is what drivers take: the snapshot's layer and its parents, nearest first.
func (Snapshots) Layer(key string) (storage.Layer, error) {
	return storage.Layer{}, errdefs.ErrNotImplemented
}

// Remove answers what it removed; the caller then has the driver remove LayerID. FailedPrecondition when it has children.
func (Snapshots) Remove(key string) (Snapshot, error) { return Snapshot{}, errdefs.ErrNotImplemented }

type CommitOptions struct {
	Usage  storage.Usage
	Labels map[string]string // all labels of the committed snapshot; those of Prepare end
	Parent string            // "rebase": only for a snapshot that was prepared without a parent
}

type Leases struct{}

func (Leases) Get(id string) (Lease, error)            { return Lease{}, errdefs.ErrNotImplemented }
func (Leases) List(filters ...string) ([]Lease, error) { return nil, errdefs.ErrNotImplemented }
func (Leases) Page(after string, limit int, filters ...string) ([]Lease, error) {
	return nil, errdefs.ErrNotImplemented
}
func (Leases) Create(l Lease) (Lease, error)              { return Lease{}, errdefs.ErrNotImplemented }
func (Leases) Delete(id string) error                     { return errdefs.ErrNotImplemented }
func (Leases) AddResource(id string, r Resource) error    { return errdefs.ErrNotImplemented }
func (Leases) RemoveResource(id string, r Resource) error { return errdefs.ErrNotImplemented }
func (Leases) Resources(id string) ([]Resource, error)    { return nil, errdefs.ErrNotImplemented }

type Blobs struct{}

func (Blobs) Get(d digest.Digest) (Blob, error)      { return Blob{}, errdefs.ErrNotImplemented }
func (Blobs) List(filters ...string) ([]Blob, error) { return nil, errdefs.ErrNotImplemented }
func (Blobs) Page(after digest.Digest, limit int, filters ...string) ([]Blob, error) {
	return nil, errdefs.ErrNotImplemented
}

// Create is AlreadyExists when the namespace has the blob; it joins the lease of the context even then, and although
// everything else that the transaction did is undone.
func (Blobs) Create(b Blob) (Blob, error) { return Blob{}, errdefs.ErrNotImplemented }
func (Blobs) Update(b Blob, fieldpaths ...string) (Blob, error) {
	return Blob{}, errdefs.ErrNotImplemented
}

// Delete answers whether this was the last namespace's record: then give the digest to DB.Reap after the commit.
func (Blobs) Delete(d digest.Digest) (last bool, err error) { return false, errdefs.ErrNotImplemented }

// Shared answers the blob of another namespace that this one may take (policy shared, or labelled
// containerd.io/namespace.shareable=true there). NotFound when there is none.
func (Blobs) Shared(d digest.Digest) (Blob, error) { return Blob{}, errdefs.ErrNotImplemented }

type Ingests struct{}

func (Ingests) Get(ref string) (Ingest, error)           { return Ingest{}, errdefs.ErrNotImplemented }
func (Ingests) List(filters ...string) ([]Ingest, error) { return nil, errdefs.ErrNotImplemented }
func (Ingests) Page(after string, limit int, filters ...string) ([]Ingest, error) {
	return nil, errdefs.ErrNotImplemented
}

// Create chooses StoreRef and ExpiresAt. AlreadyExists (which joins the lease) when the ref is there: resume it.
func (Ingests) Create(i Ingest) (Ingest, error) { return Ingest{}, errdefs.ErrNotImplemented }

// Delete answers what it removed, for content.Abort of its StoreRef.
func (Ingests) Delete(ref string) (Ingest, error) { return Ingest{}, errdefs.ErrNotImplemented }
