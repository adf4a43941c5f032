// Package native is the driver of package storage for where overlayfs cannot be: every layer is a whole tree, copied from
// its parent when it is made.
//
// It owns its root directory: ID/fs is a layer's tree. Copies share blocks where the file system can (btrfs, XFS). It keeps
// no database and mounts nothing.
//
// What a crash leaves: see package layerdir. A layer is durable once Apply or Seal returned.
package native

import "github.com/slipwayd/slipway/storage"

var _ storage.Driver = (*Driver)(nil)
