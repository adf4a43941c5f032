// Package index describes a layer without having it: its files, and where in the layer's blob their bytes are.
//
// It owns the bounded, immutable form that everything else of lazyfuse works with, the parsers that make it of foreign
// documents (eStargz and zstd:chunked tables of contents, SOCI's zTOC), the builder that makes it while a plain layer
// passes, and the decoding of fetched bytes. It reads no network and no disk. All foreign bytes are hostile: an Index that a
// function here returns is within Limits, a tree, and safe to walk.
package index

import (
	"io/fs"
	"time"

	"github.com/opencontainers/go-digest"
)

// Kind of the document an index came from.
type Kind string

const (
	EStargz     Kind = "estargz"
	ZstdChunked Kind = "zstd:chunked"
	Spans       Kind = "spans" // Slipway's own, built while a plain layer was pulled
	SOCI        Kind = "soci"
)

// Limits of an index.
type Limits struct {
	Nodes int   // inodes and names
	Bytes int64 // of the document, decompressed
	Units int
}

// Node is one inode. Its number is its place in the index: 0 is the root directory, stable for ever for a given document, so
// that a FUSE server may use it as node id across restarts.
type Node struct {
	Mode     fs.FileMode // type and permission bits, setuid, setgid, sticky
	UID, GID uint32
	Size     int64 // bytes of a regular file, of a link's target
	ModTime  time.Time
	Rdev     uint32 // of a device, as mknod(2) takes it
	Nlink    uint32
	Link     string            // target of a symbolic link
	Xattrs   map[string]string // nil for most; never trusted.overlay.*, except the opaque marker that a whiteout file stands for
	Content  digest.Digest     // of a regular file's whole content, empty when the document has none
}

// Extent is a piece of a regular file: Size bytes of it at Offset are the bytes of unit Unit from From on.
type Extent struct {
	Offset, Size int64
	Unit         int
	From         int64
}

// Unit is the smallest piece of the blob that can be decoded alone: an eStargz chunk, a zstd:chunked frame, a span.
type Unit struct {
	Offset, Length int64         // in the blob: what has to be fetched
	Size           int64         // decoded bytes
	Digest         digest.Digest // of the decoded bytes; what is fetched is checked against it before anybody sees it
	State          int           // number of the checkpoint a span decodes from, -1 for units that stand alone
}
