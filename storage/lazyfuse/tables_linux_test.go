package lazyfuse

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/testsuite/ociimage"
)

// blob counts what is fetched of it.
type blob struct {
	data    []byte
	fetched int64
}

func (b *blob) Fetch(_ context.Context, _ ocispec.Descriptor, off, length int64) (io.ReadCloser, error) {
	b.fetched += length
	return io.NopCloser(bytes.NewReader(b.data[off : off+length])), nil
}

// stargzLayer is a layer with its table of contents, so that the table is a small part of it.
func stargzLayer(t *testing.T) (*blob, ocispec.Descriptor) {
	t.Helper()
	noise := make([]byte, 1<<20)
	for i, x := 0, uint64(1); i < len(noise); i++ {
		x = x*6364136223846793005 + 1442695040888963407
		noise[i] = byte(x >> 56)
	}
	plain, err := ociimage.TarBytes([]ociimage.File{ociimage.Regular("data", 0o644, string(noise))})
	if err != nil {
		t.Fatal(err)
	}
	built, err := estargz.Build(io.NewSectionReader(bytes.NewReader(plain), 0, int64(len(plain))))
	if err != nil {
		t.Fatal(err)
	}
	defer built.Close()
	data, err := io.ReadAll(built)
	if err != nil {
		t.Fatal(err)
	}
	return &blob{data: data}, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(data), Size: int64(len(data)),
		Annotations: map[string]string{estargz.TOCJSONDigestAnnotation: built.TOCDigest().String()}}
}

// TestLocateAgain: the table of a layer that was pulled before is not fetched, unless it is damaged or the layer is another.
func TestLocateAgain(t *testing.T) {
	b, desc := stargzLayer(t)
	d := &Driver{cfg: Config{Cache: t.TempDir()}}
	first, err := d.Locate(t.Context(), desc, b)
	if err != nil {
		t.Fatal(err)
	}
	whole := b.fetched
	locate := func(what string, desc ocispec.Descriptor, want int64) {
		t.Helper()
		b.fetched = 0
		x, err := d.Locate(t.Context(), desc, b)
		if err != nil || !bytes.Equal(x.Document, first.Document) || x.Kind != first.Kind || b.fetched != want {
			t.Errorf("%s: %d bytes, want %d: %v", what, b.fetched, want, err)
		}
	}
	locate("again", desc, 1)
	files, err := filepath.Glob(filepath.Join(d.cfg.Cache, "tables", "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	good, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(good); i += 1 + len(good)/50 {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if err := os.WriteFile(files[0], bad, 0o600); err != nil {
			t.Fatal(err)
		}
		locate(fmt.Sprintf("byte %d of %d is wrong", i, len(good)), desc, whole)
	}
	if err := os.WriteFile(files[0], nil, 0o600); err != nil {
		t.Fatal(err)
	}
	locate("an empty file", desc, whole)
	locate("again", desc, 1)
	desc.Annotations["another"] = "annotation"
	locate("another descriptor", desc, whole)
}

// TestTablesLimit keeps those that were used last, and sweeps what a crash left.
func TestTablesLimit(t *testing.T) {
	b, desc := stargzLayer(t)
	at, table, err := find(t.Context(), desc, b)
	if err != nil {
		t.Fatal(err)
	}
	kept := tables{t.TempDir(), 1 << 20}
	long := time.Now().Add(-time.Hour)
	left := filepath.Join(kept.dir, "new-123")
	if err := os.WriteFile(left, table, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(left, long, long); err != nil {
		t.Fatal(err)
	}
	var descs []ocispec.Descriptor
	for i := range 4 {
		d := desc
		d.Annotations = map[string]string{estargz.TOCJSONDigestAnnotation: string(at.Digest), "n": fmt.Sprint(i)}
		descs = append(descs, d)
		if err := kept.put(d, at, table); err != nil {
			t.Fatal(err)
		}
		old := long.Add(time.Duration(i) * time.Minute)
		if err := os.Chtimes(kept.path(d), old, old); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(kept.path(d)); err != nil {
			t.Fatal(err)
		} else {
			kept.limit = info.Size() * 5 / 2
		}
		kept.get(descs[0]) // is used
	}
	for i, want := range []bool{true, false, false, true} {
		if _, ok := kept.get(descs[i]); ok != want {
			t.Errorf("table %d is kept: %t", i, ok)
		}
	}
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("what a crash left: %v", err)
	}
}
