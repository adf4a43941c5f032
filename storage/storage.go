// Package storage is the vocabulary of layers: what a layer is, what mounts it yields, and what a driver must do.
//
// It holds no code that touches a disk and no database: the graph of snapshots, their names and labels live in package
// metadata alone. A driver knows a layer by an id that metadata chose and never uses again.
//
// What a crash leaves: directories whose id metadata does not know. Start-up removes them (List, then Remove).
package storage

import (
	"context"
	"io"
)

// Mount is one mount(2) in the form that containerd's API and OCI specs use. Source and options are the driver's.
type Mount struct {
	Type    string   `json:"type"`
	Source  string   `json:"source"`
	Target  string   `json:"target,omitempty"` // below the root file system; empty for the root itself
	Options []string `json:"options,omitempty"`
}

// Kind says what may be done with a layer.
type Kind uint8

const (
	Active    Kind = iota + 1 // writable, on its parents
	View                      // read-only, on its parents; has no content of its own
	Committed                 // immutable; can be a parent
)

// Layer is one node of the graph with the way down to its base.
type Layer struct {
	ID      string   // chosen by metadata, [a-z0-9]+, unique for ever within a driver
	Parents []string // ids of committed layers, nearest first
	Kind    Kind
	// UIDMap and GIDMap ("container:host:size[,…]") ask for mounts that show files owned by those ids; empty for none.
	UIDMap, GIDMap string
	Labels         map[string]string // those of the snapshot; a driver may read what it documents
	// Unpack says of an Active layer that Apply will fill it and nobody write into it by its mounts: clients' "extract-" snapshots.
	Unpack bool
}

// Usage is what a layer alone takes on disk, without its parents.
type Usage struct {
	Size   int64 // bytes allocated
	Inodes int64
}

// A Driver turns a layer's diff into a directory tree and a stack of layers into mounts. It keeps no database. All
// methods are safe for concurrent use on different layers; calls for one layer are serialised by the caller.
type Driver interface {
	// Create makes an empty layer on l.Parents. It is done whole or not at all; an id that is there is AlreadyExists.
	Create(ctx context.Context, l Layer) error
	// Mounts answers how to mount l: writable for Active, read-only for View and Committed. NotFound when l or a parent is
	// missing. It changes nothing on disk and mounts nothing.
	Mounts(ctx context.Context, l Layer) ([]Mount, error)
	// Apply writes an uncompressed tar (OCI image-spec layer.md, "Changesets": whiteouts and opaque markers) into the layer, which must be empty
	// and was best made with Unpack: a driver may need to know (FailedPrecondition). It is durable when it
	// returns nil; after an error the layer is in no defined state and the caller removes it. It never writes outside the
	// layer, whatever the tar says. diff is read to its end only as far as the tar needs; the caller drains the rest.
	Apply(ctx context.Context, l Layer, diff io.Reader) (Usage, error)
	// Diff writes what l adds to its parents as an uncompressed tar; Apply of it on the same parents gives an equal tree.
	Diff(ctx context.Context, l Layer, w io.Writer) error
	// Seal makes all that was written into an active layer durable before metadata records it as committed.
	Seal(ctx context.Context, l Layer) (Usage, error)
	Usage(ctx context.Context, id string) (Usage, error)
	// Remove deletes the layer and is nil when there is none. A crash in the middle leaves something that List still names or nothing.
	Remove(ctx context.Context, id string) error
	List(ctx context.Context) ([]string, error)
}
