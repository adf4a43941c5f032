package storage

import (
	"context"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
)

// A Lazy driver can also serve a layer whose blob is still in a registry. Such a layer is one like all others: it is mounted, built
// upon and removed in the same way, alone or among layers that are here. Its methods are called for one layer by one caller at a time,
// like those of Driver.
type Lazy interface {
	Driver
	// Available has what serves layers run, or says why it cannot.
	Available(ctx context.Context) error
	// Locate makes the index of a layer of what its blob says of itself, which it fetches. It is an error for each layer that
	// can only be pulled in full: NotFound when the blob says nothing, NotImplemented, InvalidArgument or OutOfRange when
	// what it says cannot be served, and errors of src.
	Locate(ctx context.Context, d ocispec.Descriptor, src content.Fetcher) (LayerIndex, error)
	// Attach makes l, which Create made and which is empty, show what the index says. It asks no network, and is durable when it
	// returns nil; after an error the layer is in no defined state and the caller removes it. The usage is what the layer will
	// take when it is here.
	Attach(ctx context.Context, l Layer, x LayerIndex, src Source) (Usage, error)
	// Blob streams the blob of l from off on, out of what readers have fetched of it and otherwise from where they would get it, behind
	// all that they wait for: whoever brings all of it here then fetches nothing twice. It may end early, as when the server dies, and
	// nothing has checked its bytes: have the blob's digest checked and its length counted. NotFound when the layer is not on
	// its way, Unavailable when nothing serves it.
	Blob(ctx context.Context, l Layer, off int64) (io.ReadCloser, error)
	// Fill unpacks diff, the whole layer, beside what is served, where nobody sees it until Arrive, and a crash removes it.
	Fill(ctx context.Context, l Layer, diff io.Reader) (Usage, error)
	// Arrive makes what Fill has unpacked, and the caller has checked, the layer. Mounts that are made from then on use it, those
	// made before go on as they are. It is durable when it returns nil.
	Arrive(ctx context.Context, id string) error
	// Keep has layer id read what is still missing from file, its whole blob, instead of a registry. The driver keeps a link
	// of its own; the file may be deleted.
	Keep(ctx context.Context, id, file string) error
	// Renew has what is missing of layer id be fetched with other credentials, by "host[:port]". It is durable when it returns nil.
	Renew(ctx context.Context, id string, credentials map[string]Credential) error
	// Lazies describes the layers that are attached, and with detail how they are read.
	Lazies(ctx context.Context, detail bool) ([]LazyLayer, error)
	// LazyStats tells what all layers together have fetched and what is kept of it. Unavailable when nothing serves layers.
	LazyStats(ctx context.Context) (LazyStats, error)
	// Busy says whether somebody waits for bytes of a registry now, so that less urgent work should pause.
	Busy(ctx context.Context) bool
}

// Stream is the kind of a LayerIndex that says nothing: the layer is served while its blob comes, from the first byte on. What is not known
// of it yet its readers wait for, and nobody has verified what they get before all of it is here; when that turns out to be wrong they get
// no more. Such a layer should be filled at once.
const Stream = "stream"

// LayerIndex says what is where in a layer's blob.
type LayerIndex struct {
	Document []byte // in the form of package lazyfuse/index
	Kind     string // such as "estargz"
	Own      bool   // this host made it when it had all of the layer, and checked that
	Origin   string // where it comes from, for people
}

// Source is where a layer's blob is, and how to get at it now and after any restart. It may hold secrets.
type Source struct {
	Ref        string              `json:"ref"`              // the image, whose repository has the blob
	Descriptor ocispec.Descriptor  `json:"descriptor"`       // of the blob
	DiffID     digest.Digest       `json:"diffID,omitempty"` // of the uncompressed layer; empty when the chain ID tells it
	HostsDirs  []string            `json:"hostsDirs,omitempty"`
	PlainHTTP  bool                `json:"plainHTTP,omitempty"`
	SkipVerify bool                `json:"skipVerify,omitempty"`
	Header     map[string][]string `json:"header,omitempty"`
	// Credentials by "host[:port]" of the registry or mirror that asks.
	Credentials  map[string]Credential `json:"credentials,omitempty"`
	DockerConfig string                `json:"dockerConfig,omitempty"` // or docker's config.json to look in, anew for each token
}

// Credential authenticates with one registry.
type Credential struct {
	Username     string `json:"username,omitempty"`
	Password     string `json:"password,omitempty"`
	RefreshToken string `json:"refreshToken,omitempty"`
	AccessToken  string `json:"accessToken,omitempty"`
}

// LazyStats counts since the server of lazy layers started, in bytes where nothing else is said.
type LazyStats struct {
	DemandBytes  int64 // of blobs, fetched for readers that waited
	ProfileBytes int64 // of blobs, fetched for start profiles
	Requests     int64 // number of requests to registries
	Failures     int64 // number of those that failed

	CacheBytes   int64 // that the node cache takes now
	CacheIdle    int64 // of these, what no layer needs
	CacheEvicted int64 // number of contents that were removed to make room
	CacheRefused int64 // number of writes that found no room
}

// LazyLayer is a layer that was attached. Counts are since its server started.
type LazyLayer struct {
	ID         string
	Source     Source
	Kind       string // of the index
	Origin     string
	AttachedAt time.Time
	Filled     bool // all of it is here; it is served only for mounts that were made before
	Served     bool // the FUSE server has it

	CachedBytes     int64 // of files, in the node cache
	FileBytes       int64 // of all its files
	DemandBytes     int64 // of the blob, fetched for readers that waited
	ProfileBytes    int64 // fetched for a start profile
	BackgroundBytes int64 // that came to bring all of it here; whoever does that fills it in
	ReadBytes       int64 // of files, given to readers
	Reads           int64 // that came to the server
	WaitedReads     int64 // of those, how many found something missing
	ReadErrors      int64
}
