package engine

import (
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
)

// A blob whose file somebody deleted is lost data, not an unknown name; without its record it can be fetched again.
func TestBlobWithoutItsFile(t *testing.T) {
	b := newBench(t)
	c := b.Content(Scope{Namespace: benchNS})
	d, err := content.WriteBytes(t.Context(), c, ocispec.MediaTypeImageLayer, []byte("bytes"))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.blobs.Delete(t.Context(), d.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReaderAt(t.Context(), d); !errdefs.IsDataLoss(err) {
		t.Errorf("got %v, want data loss", err)
	}
	if err := c.Delete(t.Context(), d.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := content.WriteBytes(t.Context(), c, ocispec.MediaTypeImageLayer, []byte("bytes")); err != nil {
		t.Fatal(err)
	}
	if r, err := c.ReaderAt(t.Context(), d); err != nil {
		t.Error(err)
	} else if err := r.Close(); err != nil {
		t.Error(err)
	}
}
