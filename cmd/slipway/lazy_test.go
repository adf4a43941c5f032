package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/client"
)

func TestLazyRow(t *testing.T) {
	served := client.LazyLayer{Mode: client.LayerLazy, Reads: &client.LayerReads{Files: 3e6, Here: 5e5, Demand: 2e5, Profile: 1e5, Count: 50, Waited: 3}}
	for _, test := range []struct {
		layers []client.LazyLayer
		want   string
	}{
		{nil, "x||all||||"},
		{[]client.LazyLayer{{Mode: client.LayerFull}, {Mode: client.LayerArrived}, {Mode: client.LayerFull}}, "x|1 arrived, 2 full|all||||"},
		{[]client.LazyLayer{served, {Mode: client.LayerFull}, served}, "x|2 lazy, 1 full|1MB of 6MB|400kB|200kB|0B|94%"},
		{[]client.LazyLayer{{Mode: client.LayerLazy, Reads: &client.LayerReads{Files: 7}}}, "x|1 lazy|0B of 7B|0B|0B|0B|"},
	} {
		if got := strings.Join(lazyRow{"x", test.layers}.columns(), "|"); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

// Each layer is one object: the descriptor, and how the layer is here.
func TestInspectedLayers(t *testing.T) {
	one, two := digest.FromString("1"), digest.FromString("2")
	d := client.ImageDetail{Layers: []ocispec.Descriptor{{MediaType: "m", Digest: one, Size: 5}, {MediaType: "m", Digest: two, Size: 6}}}
	var out bytes.Buffer
	if err := printJSON(&out, layersOf(d, []client.LazyLayer{{Digest: one, Size: 5, Mode: client.LayerFull, Reason: "why"}})); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{one.String(), two.String(), `"size": 5`, `"size": 6`, `"reason": "why"`} {
		if strings.Count(out.String(), want) != 1 {
			t.Errorf("%s is not there once:\n%s", want, out.String())
		}
	}
}
