package metadata

import (
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/storage"
)

// Any is an opaque typed value of a client, kept as it came (google.protobuf.Any).
type Any = opaque.Any

type Namespace struct {
	Name   string            `json:"-"`
	Labels map[string]string `json:"labels,omitempty"`
}

// Image is a name for a descriptor. Names are opaque strings to metadata.
type Image struct {
	Name      string             `json:"-"`
	Labels    map[string]string  `json:"labels,omitempty"`
	Target    ocispec.Descriptor `json:"target"`
	CreatedAt time.Time          `json:"created"`
	UpdatedAt time.Time          `json:"updated"`
}

// Container is what a client asked to run; whether it runs is the shim's to know.
type Container struct {
	ID          string            `json:"-"`
	Labels      map[string]string `json:"labels,omitempty"`
	Image       string            `json:"image,omitempty"`
	Runtime     Runtime           `json:"runtime"`
	Spec        *Any              `json:"spec,omitempty"`
	Snapshotter string            `json:"snapshotter,omitempty"`
	SnapshotKey string            `json:"snapshotKey,omitempty"`
	Extensions  map[string]Any    `json:"extensions,omitempty"`
	SandboxID   string            `json:"sandbox,omitempty"`
	CreatedAt   time.Time         `json:"created"`
	UpdatedAt   time.Time         `json:"updated"`
}

type Runtime struct {
	Name    string `json:"name"`
	Options *Any   `json:"options,omitempty"`
}

// Snapshot is a node of the graph of one driver in one namespace. Layer ids are unique in the driver over all namespaces
// and never used twice.
type Snapshot struct {
	Key       string            `json:"-"` // key while active or view, name once committed
	Kind      storage.Kind      `json:"kind"`
	LayerID   string            `json:"layer"`
	Parent    string            `json:"parent,omitempty"` // key of the parent
	Labels    map[string]string `json:"labels,omitempty"`
	Usage     storage.Usage     `json:"usage,omitzero"` // of a committed one
	CreatedAt time.Time         `json:"created"`
	UpdatedAt time.Time         `json:"updated"`
}

// Lease protects what is added to it from collection until it is deleted or its label containerd.io/gc.expire (RFC 3339) passes.
type Lease struct {
	ID        string            `json:"-"`
	Labels    map[string]string `json:"labels,omitempty"`
	CreatedAt time.Time         `json:"created"`
}

// Resource is what a lease can hold. Type is content, ingests, images or snapshots/<driver>.
type Resource struct {
	Type string
	ID   string
}

// Blob is a namespace's view of a blob in the content store.
type Blob struct {
	Digest    digest.Digest     `json:"-"`
	Size      int64             `json:"size"`
	Labels    map[string]string `json:"labels,omitempty"`
	CreatedAt time.Time         `json:"created"`
	UpdatedAt time.Time         `json:"updated"`
}

// Ingest maps a client's ref in a namespace to the content store's own.
type Ingest struct {
	Ref       string        `json:"-"`
	StoreRef  string        `json:"storeRef"`
	Expected  digest.Digest `json:"expected,omitempty"`
	ExpiresAt time.Time     `json:"expires,omitzero"` // zero when a lease holds it
	CreatedAt time.Time     `json:"created"`
}

// Sandbox is a pod's record (containerd's Sandbox Store).
type Sandbox struct {
	ID         string            `json:"-"`
	Labels     map[string]string `json:"labels,omitempty"`
	Runtime    Runtime           `json:"runtime"`
	Spec       *Any              `json:"spec,omitempty"`
	Sandboxer  string            `json:"sandboxer,omitempty"`
	Extensions map[string]Any    `json:"extensions,omitempty"`
	CreatedAt  time.Time         `json:"created"`
	UpdatedAt  time.Time         `json:"updated"`
}
