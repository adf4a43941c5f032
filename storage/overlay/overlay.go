// Package overlay is the driver of package storage that keeps each layer in a directory and stacks them with overlayfs.
//
// It owns its root directory: ID/fs holds a layer's files as overlayfs wants them, ID/work is overlayfs's own. It keeps no
// database, knows neither images nor archives' compression, and mounts nothing but a probe in New: Mounts says how.
//
// What a crash leaves: see package layerdir. An active layer is as durable as its container's own fsync calls make it,
// a layer is wholly durable once Apply or Seal returned.
package overlay

import "github.com/slipwayd/slipway/storage"

var _ storage.Driver = (*Driver)(nil)
