package convert

import (
	"bytes"
	"io"
	"os"
	"testing"

	"github.com/slipwayd/slipway/image"
)

// BenchmarkLayer converts $SLIPWAY_LAYER, a layer of a real image.
func BenchmarkLayer(b *testing.B) {
	name := os.Getenv("SLIPWAY_LAYER")
	if name == "" {
		b.Skip("SLIPWAY_LAYER names no layer")
	}
	blob, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	encoder, err := newEncoder()
	if err != nil {
		b.Fatal(err)
	}
	defer encoder.Close()
	for _, f := range formats {
		b.Run(string(f), func(b *testing.B) {
			c := &converter{Options: Options{Format: f}, encoder: encoder}
			for b.Loop() {
				r, err := image.Decompress(bytes.NewReader(blob))
				if err != nil {
					b.Fatal(err)
				}
				made, size := convertTo(b, c, r)
				b.SetBytes(made.size)
				b.ReportMetric(float64(size)/float64(len(blob)), "ratio")
			}
		})
	}
}

// convertTo converts one uncompressed layer and answers what it became.
func convertTo(t testing.TB, c *converter, r io.Reader) (written, int64) {
	t.Helper()
	f, err := c.format()
	if err != nil {
		t.Fatal(err)
	}
	var out counter
	w := newWriter(&out, f)
	if err := w.archive(r, nil); err != nil {
		t.Fatal(err)
	}
	made, err := w.end(&out)
	if err != nil {
		t.Fatal(err)
	}
	return made, int64(out)
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
