package engine

import (
	"maps"
	"strings"

	"github.com/slipwayd/slipway/metadata"
)

// Clients offer a snapshotter to make layers without their blobs (lazy_remote.go), but some do so only if it goes by a name that they know to
// do that. Such a name is another for a driver: what clients bring with it is recorded with the driver's own.

// labelSnapshotRef begins a label that keeps a snapshot of the driver whose name follows, up to a slash (containerd's
// docs/garbage-collection.md).
const labelSnapshotRef = "containerd.io/gc.ref.snapshot."

// driverName is what the driver is called that a client calls name.
func (e *Engine) driverName(name string) string {
	if real, ok := e.aliases[name]; ok {
		return real
	}
	return name
}

// ownLabel is a label's key with the driver's own name.
func (e *Engine) ownLabel(key string) string {
	rest, ok := strings.CutPrefix(key, labelSnapshotRef)
	if !ok {
		return key
	}
	name, tail, cut := strings.Cut(rest, "/")
	if cut {
		tail = "/" + tail
	}
	return labelSnapshotRef + e.driverName(name) + tail
}

// ownLabels are labels whose keys have the drivers' own names.
func (e *Engine) ownLabels(labels map[string]string) map[string]string {
	var own map[string]string
	for k := range labels {
		if o := e.ownLabel(k); o != k {
			if own == nil {
				own = maps.Clone(labels)
			}
			delete(own, k)
			own[o] = labels[k]
		}
	}
	if own == nil {
		return labels
	}
	return own
}

// ownFields are names of fields to change, as far as they are labels.
func (e *Engine) ownFields(paths []string) []string {
	own := make([]string, len(paths))
	for i, p := range paths {
		if key, ok := strings.CutPrefix(p, "labels."); ok {
			p = "labels." + e.ownLabel(key)
		}
		own[i] = p
	}
	return own
}

// ownResource is what a lease is to hold.
func (e *Engine) ownResource(r metadata.Resource) metadata.Resource {
	if name, ok := strings.CutPrefix(r.Type, metadata.ResourceSnapshots); ok {
		r.Type = metadata.ResourceSnapshots + e.driverName(name)
	}
	return r
}
