// Package index describes a layer without having it: its files, and where in the layer's blob their bytes are.
//
// It owns the bounded, immutable form that everything else of lazyfuse works with, the parsers that make it of foreign
// documents (eStargz and zstd:chunked tables of contents, SOCI's zTOC), the recorder that makes it while a plain layer
// passes, and the decoding of fetched bytes. It reads no network and no disk, and imports nothing of Slipway but
// internal/inflate. All foreign bytes are hostile: an Index that a function here returns is within Limits, a tree, and safe
// to walk; its tree is what package storage/overlay makes of the same layer.
//
// What cannot be indexed is refused: NotImplemented for what is legal but not done here, InvalidArgument for what is
// damaged or hostile, OutOfRange for what is beyond Limits. Such a layer is pulled in full, which is always right.
//
// What a crash leaves: nothing; the caller keeps what Marshal answers.
package index

import (
	"fmt"
	"io/fs"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Kind of the document an index came from.
type Kind string

const (
	EStargz     Kind = "estargz"
	ZstdChunked Kind = "zstd:chunked"
	Spans       Kind = "spans" // Slipway's own, recorded while a plain layer was pulled
	SOCI        Kind = "soci"
)

// Limits of an index. Zero fields are those of DefaultLimits.
type Limits struct {
	Nodes    int   // inodes and names
	Bytes    int64 // of the document, decompressed
	Units    int
	UnitSize int64 // decoded bytes of one unit, which is what a reader holds in memory
}

// DefaultLimits keep a hostile document below 64 MiB of memory. The names, link targets and attributes of an index are
// bounded by maxText besides.
var DefaultLimits = Limits{Nodes: 1 << 18, Bytes: 128 << 20, Units: 1 << 18, UnitSize: 64 << 20}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits
	if l.Nodes <= 0 {
		l.Nodes = d.Nodes
	}
	if l.Bytes <= 0 {
		l.Bytes = d.Bytes
	}
	if l.Units <= 0 {
		l.Units = d.Units
	}
	if l.UnitSize <= 0 {
		l.UnitSize = d.UnitSize
	}
	l.Nodes, l.Units = min(l.Nodes, 1<<30), min(l.Units, 1<<30)
	l.UnitSize = min(l.UnitSize, 1<<31)
	return l
}

// Node is one inode. Its number is its place in the index: 0 is the root directory, stable for ever for a given document, so
// that a FUSE server may use it as node id across restarts.
type Node struct {
	Mode     fs.FileMode // type and permission bits, setuid, setgid, sticky
	UID, GID uint32
	Size     int64 // bytes of a regular file, of a link's target
	ModTime  time.Time
	Rdev     uint32 // of a device, as mknod(2) takes it; a character device 0 is overlayfs's whiteout
	Nlink    uint32
	Link     string            // target of a symbolic link
	Xattrs   map[string]string // nil for most, not to be changed; never trusted.overlay.*, except the opaque marker that a whiteout file stands for
	// Content is the digest of a regular file's whole content, or empty. It is right where the file is one unit, and in an
	// index of kind Spans that is believed; for files of more units it is only what a stranger's document claims.
	Content digest.Digest
}

// Extent is a piece of a regular file: Size bytes of it at Offset are the bytes of unit Unit from From on, or zeros when Unit
// is Zeros.
type Extent struct {
	Offset, Size int64
	Unit         int
	From         int64
}

// Zeros is the unit of an extent that need not be fetched.
const Zeros = -1

// Unit is the smallest piece of the blob that can be decoded alone: an eStargz chunk, a zstd:chunked frame, a span. Decode
// checks it by Digest, by Raw, or, when it has neither because it was recorded, by the state of the diff ID's hash.
type Unit struct {
	Offset, Length int64         // in the blob: what has to be fetched; spans may share a byte with the one before
	Size           int64         // decoded bytes
	Skip           int64         // decoded bytes before those of the unit, which belong to others
	Digest         digest.Digest // of the decoded bytes, which Decode checks before anybody sees them
	Raw            digest.Digest // of the Length bytes fetched, which Decode checks: SOCI's have this one
	State          int           // number of the checkpoint a span decodes from, -1 for units that stand alone
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrNotImplemented)...)
}

func tooMuch(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrOutOfRange)...)
}

func notFound(what string) error { return fmt.Errorf("%s: %w", what, errdefs.ErrNotFound) }
