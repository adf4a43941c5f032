package engine

import (
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/metadata"
)

// Payloads of the events that the engine itself publishes; api/containerd encodes each as the message of the same name, of containerd's
// API or of ours.
// Those of tasks come from shims, encoded already.
type (
	NamespaceCreate struct {
		Name   string
		Labels map[string]string
	}
	NamespaceUpdate struct {
		Name   string
		Labels map[string]string
	}
	NamespaceDelete struct{ Name string }

	ContainerCreate struct {
		ID, Image string
		Runtime   metadata.Runtime
	}
	ContainerUpdate struct {
		ID, Image   string
		Labels      map[string]string
		SnapshotKey string
	}
	ContainerDelete struct{ ID string }

	ImageCreate struct {
		Name   string
		Labels map[string]string
	}
	ImageUpdate struct {
		Name   string
		Labels map[string]string
	}
	ImageDelete struct{ Name string }

	ContentCreate struct {
		Digest digest.Digest
		Size   int64
	}
	ContentDelete struct{ Digest digest.Digest }

	SnapshotPrepare struct{ Key, Parent, Snapshotter string }
	SnapshotCommit  struct{ Key, Name, Snapshotter string }
	SnapshotRemove  struct{ Key, Snapshotter string }

	// PullProgress has topics /images/pull/begin, progress (once in tellPull at most), done and failed.
	PullProgress struct {
		Ref         string // as it was asked for
		State       string // "pulling", "unpacking", "done", or why it failed
		Done, Bytes int64  // so many bytes of what is known to be needed
	}

	// Of layers that are used before they are here: the image's name, the blob, the snapshot.
	LazyAttach   struct{ Image, Layer, Snapshot, Index string }
	LazyComplete struct{ Image, Layer, Snapshot string }
	LazyFallback struct{ Image, Layer, Snapshot, Reason string }
)
