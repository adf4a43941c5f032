// Package image moves images: it resolves their names, fetches, unpacks, pushes, imports and exports them.
//
// It owns the order of things: what of an image is fetched for which platform, which labels keep its parts from garbage
// collection, and that a layer is downloaded, verified, decompressed and unpacked in one pass. Names are parsed by
// image/reference, mirrors are configured by image/hosts and HTTP is spoken by image/registry. Where blobs and layers are
// kept is the caller's: the interfaces Store and Layers. It imports neither package engine nor any storage driver, and
// writes no image records.
//
// What a crash leaves: ingests that a repeated pull resumes, blobs and snapshots that the caller's lease holds until it
// expires, and staged layers that Layers drops at start-up.
package image

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
)

// Store is the content of one namespace, with labels. What is written through it, or found by Info, is held by the lease
// the caller bound it to, so that collection leaves it alone while an operation runs.
type Store interface {
	content.Provider
	// Info describes a blob; NotFound when the namespace has none with that digest.
	Info(ctx context.Context, dgst digest.Digest) (content.Blob, error)
	// Writer opens or resumes the ingest ref as content.Ingester does. labels are the blob's from the moment it is visible:
	// Commit records both in one step.
	Writer(ctx context.Context, ref string, desc ocispec.Descriptor, labels map[string]string) (content.Writer, error)
	// Abort drops the ingest ref; nil when there is none.
	Abort(ctx context.Context, ref string) error
	// Labels are those of a blob; NotFound when there is none.
	Labels(ctx context.Context, dgst digest.Digest) (map[string]string, error)
	// SetLabels merges labels into a blob's; an empty value removes a key.
	SetLabels(ctx context.Context, dgst digest.Digest, labels map[string]string) error
}

// Layers keeps unpacked layers as committed snapshots that are named by chain ID. All methods are safe for concurrent use.
type Layers interface {
	// Driver names the storage driver, as in the label containerd.io/gc.ref.snapshot.<driver>.
	Driver() string
	// Independent says that a layer can be staged before its parent is committed, because where the driver unpacks to does
	// not depend on the parent (overlay). When false, Stage is called in order of the chain.
	Independent() bool
	// Has reports whether the snapshot chain is committed, and puts it under the lease when it is.
	Has(ctx context.Context, chain digest.Digest) (bool, error)
	// Stage makes a layer to unpack into: an active snapshot under a key of its own, held by the lease. After SIGKILL it is
	// garbage like any other snapshot without a reference.
	Stage(ctx context.Context, l Layer) (Staged, error)
}

// Layer is one step of an image's chain.
type Layer struct {
	Desc   ocispec.Descriptor // of the compressed blob
	DiffID digest.Digest      // of the uncompressed tar
	Parent digest.Digest      // chain ID of the layers below, empty for the base
	Chain  digest.Digest      // chain ID with this layer
	Index  int                // 0 for the base
	Image  string             // name the image is pulled by, may be empty
	// Manifest of the image; empty where it is not known.
	Manifest ocispec.Descriptor
}

// Staged is a layer that is being unpacked. Exactly one of Commit and Abort ends it.
type Staged interface {
	// Apply unpacks an uncompressed tar and returns when it is durable. It may leave bytes behind the tar's end unread.
	Apply(ctx context.Context, diff io.Reader) error
	// Commit makes it the snapshot Layer.Chain on Layer.Parent, which is committed by now. When somebody else committed the
	// same chain meanwhile it drops the staged layer and is nil.
	Commit(ctx context.Context) error
	// Abort drops it. It must also work on a context that is done; the caller passes one that is not.
	Abort(ctx context.Context) error
}

// Recorder learns of layers what is where in them while they are pulled in full, so that the next pull need not be. It is safe for
// concurrent use.
type Recorder interface {
	// Wants says whether a layer is to be recorded.
	Wants(l Layer) bool
	// Record stands in for the decompressor of a layer: it reads blob and fails as a decompressor would. What makes recording
	// impossible does not fail it.
	Record(l Layer, blob io.Reader) (Recording, error)
}

// Recording is the uncompressed layer, to be read and closed by one goroutine. Another writes what was read, in order, when it comes by,
// and may do so after the closing.
type Recording interface {
	io.ReadCloser
	// Write takes what was read. It does not fail.
	io.Writer
	// DiffID is the SHA-256 of what was written, after the end.
	DiffID() (digest.Digest, error)
	// Keep keeps what was recorded. It is called at most once, after DiffID, when the digests of blob and layer are known to be
	// right. That it fails is for the recorder to know; the pull goes on.
	Keep()
}

// State is where a part of an image stands.
type State string

const (
	Resolving   State = "resolving"
	Waiting     State = "waiting"
	Downloading State = "downloading" // and unpacking at the same time, where that is possible
	Unpacking   State = "unpacking"   // from the content store, or the download is done and the rest of the layer is on its way
	Uploading   State = "uploading"
	Served      State = "served" // can be used while it is still in its registry
	Exists      State = "exists" // was there already
	Done        State = "done"
)

// Progress is the state of one part of an image.
type Progress struct {
	Name   string             // what a user calls the part: the image's name, or "layer-sha256:…"
	Parent digest.Digest      // of the part that names this one, empty for the target
	Desc   ocispec.Descriptor // empty while resolving
	State  State
	Offset int64 // bytes of Desc.Size done
}

// ProgressFunc is called from one goroutine at a time: at once when a State changes, else about ten times a second for
// each part that moves. It must not block for long.
type ProgressFunc func(Progress)

// Result is what an image was found to be.
type Result struct {
	Name   string             // normalised, for the image record
	Target ocispec.Descriptor // index or manifest
	// Manifest and ChainID are of the platform that was unpacked; empty without Layers.
	Manifest ocispec.Descriptor
	ChainID  digest.Digest
}

// Limits bound what a registry or an archive may make us store. A zero field means its default.
type Limits struct {
	Manifest int64 // bytes of an index or manifest, 4 MiB
	Config   int64 // bytes of an image configuration, 8 MiB
	Blob     int64 // bytes of any other blob, 64 GiB
	Diff     int64 // bytes of an uncompressed layer, 256 GiB
	Layers   int   // layers in an image, 500
	Entries  int   // manifests that are followed from one image, 1000
	Parallel int   // blobs fetched and unpacked side by side, 4
}

const (
	defaultManifest = 4 << 20
	defaultConfig   = 8 << 20
	defaultBlob     = 64 << 30
	defaultDiff     = 256 << 30
	defaultLayers   = 500
	defaultEntries  = 1000
	defaultParallel = 4
)

func (l Limits) withDefaults() Limits {
	set(&l.Manifest, defaultManifest)
	set(&l.Config, defaultConfig)
	set(&l.Blob, defaultBlob)
	set(&l.Diff, defaultDiff)
	set(&l.Layers, defaultLayers)
	set(&l.Entries, defaultEntries)
	set(&l.Parallel, defaultParallel)
	return l
}

func set[T int | int64](v *T, otherwise T) {
	if *v == 0 {
		*v = otherwise
	}
}
