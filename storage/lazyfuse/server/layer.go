// Package server shows lazy layers as one read-only FUSE mount: its root has one directory for each attached layer, named by
// the layer's id.
//
// It owns the FUSE protocol (by go-fuse's raw interface, over a read loop of its own), what is attached, and which open
// files are read past it. It knows no registry, cache or image: a Layer brings trees and bytes. It imports nothing of
// Slipway but package index, the control protocol and internal/durable.
//
// What a crash leaves: everything. Node ids are a pure function of what is attached, and that is on disk; the keeper
// (package keeper) holds the descriptor of /dev/fuse and the Session, in which each open file is noted. The next server
// takes both and has the kernel send again what was asked and not answered. Readers wait meanwhile; none fails.
package server

import (
	"context"
	"errors"
	"io"
	"iter"
	"os"

	"github.com/slipwayd/slipway/storage/lazyfuse/index"
)

// A Tree is what a layer's files are called and look like; an *index.Index is one. It does not change, has its root at node
// 0, and numbers its nodes alike each time that it is read: the kernel remembers the numbers beyond the server's life.
type Tree interface {
	// Len answers how many nodes there are. Numbers of nodes are below.
	Len() int
	Node(i int) index.Node
	// Lookup finds a name in directory dir.
	Lookup(dir int, name string) (int, bool)
	// ReadDir lists directory dir from its entry number from on, without "." and "..", in the same order each time.
	ReadDir(dir, from int) iter.Seq2[string, int]
}

// A Layer is a tree with its bytes. All methods are safe for concurrent use.
type Layer interface {
	Tree
	// ReadAt reads from a regular file. It fills p or answers an error; it may wait for a network, and returns soon
	// after ctx is done. What it delivers was verified.
	ReadAt(ctx context.Context, node int, p []byte, off int64) (int, error)
	// Backing answers the file that holds all of node's content, verified, once all of it is here. It is never written
	// again. The caller closes it.
	Backing(node int) (*os.File, bool)
	io.Closer
}

// A Growing is a Layer of which not all is known yet. Its methods wait until an answer is certain, which is what Lookup, Node and ReadDir
// then give; they return soon after ctx is done. A node that the layer turns out not to have is NotFound.
type Growing interface {
	Layer
	// Grows says whether there are answers that are still to come. Once it is false it stays so.
	Grows() bool
	// Await is for Node, and for all that is done with a node.
	Await(ctx context.Context, node int) error
	// Find is for Lookup, whose answer it gives.
	Find(ctx context.Context, dir int, name string) (node int, ok bool, err error)
	// AwaitAll is for ReadDir.
	AwaitAll(ctx context.Context) error
}

// OpenFunc makes the layer id of what directory dir says about it. It asks no network before the layer is read.
type OpenFunc func(id, dir string) (Layer, error)

// ErrUnmounted is how Serve ends when the file system is mounted no more.
var ErrUnmounted = errors.New("the FUSE file system is unmounted")
