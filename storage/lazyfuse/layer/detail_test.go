package layer_test

import (
	"context"
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/slipwayd/slipway/storage/lazyfuse/cache"
	"github.com/slipwayd/slipway/storage/lazyfuse/layer"
)

// TestDetailOfWhatWasHere asks a layer that nobody has read for what the cache has of it.
func TestDetailOfWhatWasHere(t *testing.T) {
	f := newFixture(t, cache.Options{}, true)
	c, err := cache.Open(t.TempDir(), cache.Options{})
	must(t, err)
	units, err := layer.NewUnits(8<<20, "", 0)
	must(t, err)
	open := func() *layer.Layer {
		return layer.New(layer.Config{Index: f.Index, Digest: digest.FromBytes(f.Marshal()), Cache: c, Blob: f.blob, Units: units, Own: true})
	}
	reader, other := open(), open()
	defer func() { must(t, errors.Join(reader.Close(), other.Close(), c.Close())) }()
	if d := other.Detail().(layer.Detail); d.Cached != 0 {
		t.Errorf("%d bytes in an empty cache", d.Cached)
	}
	p := make([]byte, 70_000)
	if _, err := reader.ReadAt(context.Background(), f.find(t, "file4"), p, 0); err != nil {
		t.Fatal(err)
	}
	a, b := reader.Detail().(layer.Detail), other.Detail().(layer.Detail)
	if a.Cached != 70_000 || b.Cached != a.Cached || a.Waited != 1 || a.Demand == 0 || b.Demand != 0 {
		t.Errorf("who read says %+v, who did not %+v", a, b)
	}
}
