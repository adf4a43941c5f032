package main

import (
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/storage/lazyfuse/index"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// TestNothingTwice: what readers have fetched of an image comes to its blobs from there, before they are here and while they come, and the
// table of a layer that is pulled again from where it was kept.
func TestNothingTwice(t *testing.T) {
	n, r := newNode(t), registry.Start(t)
	ref := push(t, r, "test/stargz:latest", stargzImage)
	sent := func() map[digest.Digest]int64 {
		by := map[digest.Digest]int64{}
		for _, q := range r.Requests() {
			by[q.Digest] += q.Bytes
		}
		return by
	}
	layers := n.pull(t, ref, "")
	n.tree(t, layers) // reads all
	check(t, n.WaitLazy(t.Context(), "test", ref))
	for dgst, bytes := range sent() {
		for _, l := range layers {
			if at := l.Desc; at.Digest == dgst && bytes > at.Size+index.TailSize+at.Size/10 {
				t.Errorf("%d bytes of layer %s were sent, it has %d", bytes, dgst, at.Size)
			}
		}
	}

	check(t, n.DeleteImage(t.Context(), "test", ref, nil, true))
	r.Forget()
	layers = n.pull(t, ref, "")
	if got := modes(layers); got != "lazy lazy lazy" {
		t.Fatalf("pulled again %s: %s", got, layers[0].Reason)
	}
	for _, l := range layers {
		if bytes := sent()[l.Desc.Digest]; bytes != 1 {
			t.Errorf("%d bytes of layer %s were sent for its table", bytes, l.Desc.Digest)
		}
	}
}
