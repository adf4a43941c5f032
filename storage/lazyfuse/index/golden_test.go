package index

import (
	"os"
	"testing"
)

// TestGolden reads an index that version 1 wrote, which no later version may read differently. $SLIPWAY_GOLDEN writes it.
func TestGolden(t *testing.T) {
	const file = "testdata/v1.slipidx"
	plain := tarOf(t, forTables(allTypes(3_000_000)))
	blob := members(400_000, gzipped(0))(plain)
	if os.Getenv("SLIPWAY_GOLDEN") != "" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, record(t, blob).Marshal(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	x, err := Parse(data, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "tree", describe(t, x, blob), describe(t, record(t, plain), plain))
	for at := range data {
		data[at] ^= 1
		if _, err := Parse(data, Limits{}); err == nil {
			t.Fatalf("byte %d changed and was not noticed", at)
		}
		data[at] ^= 1
		if at > 500 {
			break
		}
	}
}
