// Package windowsfilter is the driver of package storage that keeps layers in the form that Windows' container filter (wcifs) stacks: a
// directory with Files, Hives and UtilityVM for each, and a virtual disk on top of them for what a container writes.
//
// It owns its root directory. Of the layer with some id, layerID/layerID holds what is read only and layerID/scratchID the virtual disk
// (sandbox.vhdx) of what is written; Windows names layers by the last part of their paths, so both are unlike all others. Mounts are
// containerd's: type windows-layer, the option parentLayerPaths= with a JSON list, nearest first. It keeps no database and mounts nothing.
//
// What the tars of images say is checked here, on every system, before any of it reaches Windows (names.go, header.go, filter.go).
// What only Windows can do is behind Host: NewHost has it from hcsshim, and NewCim's is one that keeps layers in composite images.
//
// What a crash leaves: see package layerdir. A layer is durable once Apply or Seal returned. Where hcsshim unpacks a layer that has
// parents it works in a directory hcs* of the system's temporary directory, which the next NewHost deletes. Of a diff that a crash cuts, such a
// directory stays there.
package windowsfilter

import "github.com/slipwayd/slipway/storage"

var _ storage.Driver = (*Driver)(nil)
