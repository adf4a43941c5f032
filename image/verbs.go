package image

import (
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image/registry"
)

// PullOptions says what to pull and where to.
type PullOptions struct {
	Ref      string           // as users type it
	Registry *registry.Client // required
	Remote   registry.Options // credentials, headers, plain HTTP for this pull
	Store    Store            // required
	Layers   Layers           // nil: fetch only
	Recorder Recorder         // nil: no indexes are recorded
	// Platforms to fetch; empty for the host's. The first is unpacked when Layers is given.
	Platforms    []ocispec.Platform
	AllPlatforms bool // fetch every platform; Platforms then only says which to unpack
	// New says that nothing of that name is here, so that its manifest is fetched at once, a round trip earlier. Otherwise the registry
	// is first asked whether it has changed, which counts as no pull.
	New      bool
	Progress ProgressFunc
	Limits   Limits
}

// PushOptions says what to push and where to.
type PushOptions struct {
	Ref          string // where to; as users type it
	Registry     *registry.Client
	Remote       registry.Options
	Store        Store
	Target       ocispec.Descriptor
	Platforms    []ocispec.Platform // empty for all of which every blob is here
	AllPlatforms bool               // fail when a blob of some platform is not here
	Progress     ProgressFunc
	Limits       Limits
}

// UnpackOptions says which image of those in the store to unpack.
type UnpackOptions struct {
	Name     string // for messages and Layer.Image
	Target   ocispec.Descriptor
	Platform *ocispec.Platform // nil for the host's
	Store    Store
	Layers   Layers
	Recorder Recorder // nil: no indexes are recorded
	Progress ProgressFunc
	Limits   Limits
}

// ImportOptions says how to read an archive.
type ImportOptions struct {
	Store Store
	// Name is the repository of images that the archive names by a tag alone (Name:tag) or not at all (Name@digest). Empty:
	// those are answered without a name.
	Name     string
	Progress ProgressFunc
	Limits   Limits
}

// Imported is one image found in an archive.
type Imported struct {
	Name   string // normalised, or empty
	Tag    string // all that the archive names an image that has no Name, or empty
	Target ocispec.Descriptor
}

// ExportOptions says what goes into an archive.
type ExportOptions struct {
	Store  Store
	Images []Imported
	// Platforms limits what is written of an index; empty for every image of it that is here whole.
	Platforms []ocispec.Platform
	// NoDockerManifest leaves manifest.json out, which docker load before 25 needs.
	NoDockerManifest bool
	Limits           Limits
}

// hostPlatform is what this machine runs.
func hostPlatform() ocispec.Platform { return platforms.DefaultSpec() }
