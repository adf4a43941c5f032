package index

import (
	"bytes"
	"io"
	"os"
	"slices"
	"testing"

	"github.com/slipwayd/slipway/internal/inflate"
)

// TestLayer indexes $SLIPWAY_LAYER, a gzip layer of a real image, and compares tree and bytes with what is unpacked of it.
func TestLayer(t *testing.T) {
	name := os.Getenv("SLIPWAY_LAYER")
	if name == "" {
		t.Skip("SLIPWAY_LAYER names no layer")
	}
	blob, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := inflate.NewReader(bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	x := record(t, blob)
	at := 0
	for u := range x.Units() {
		data := unitOf(t, x, blob, u)
		if !bytes.Equal(data, plain[at:at+len(data)]) {
			t.Fatalf("unit %d is not what is in the layer", u)
		}
		at += len(data)
	}
	t.Logf("%d bytes, index of %d, %d nodes, %d units", len(blob), len(x.Marshal()), x.Len(), x.Units())
	if os.Geteuid() == 0 {
		whole := record(t, plain) // quicker to read files of
		got, want := describe(t, whole, plain), unpacked(t, plain)
		slices.Sort(got)
		same(t, "tree", withoutTimes(got), withoutTimes(want))
	}
}
