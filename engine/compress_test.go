package engine

import (
	"bytes"
	"io"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestIsLayer(t *testing.T) {
	for mediaType, want := range map[string]bool{
		ocispec.MediaTypeImageLayer: true, ocispec.MediaTypeImageLayerGzip: true, ocispec.MediaTypeImageLayerZstd: true,
		dockerLayer: true, dockerLayer + ".gzip": true, dockerLayer + ".zstd": true, dockerForeignLayer + ".gzip": true, foreignLayer + "+gzip": true,
		"": false, "text/plain": false, ocispec.MediaTypeImageManifest: false, ocispec.MediaTypeImageLayerGzip + "+encrypted": false,
		ocispec.MediaTypeImageLayer + "+lz4": false, dockerLayer + ".xz": false,
	} {
		if isLayer(mediaType) != want {
			t.Errorf("isLayer(%q) is %v", mediaType, !want)
		}
	}
}

func TestCompressionComesBack(t *testing.T) {
	data := bytes.Repeat([]byte("layer "), 10000)
	for _, mediaType := range []string{ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd, dockerLayer + ".gzip"} {
		var buf bytes.Buffer
		w, err := compress(mediaType, &buf)
		if err == nil {
			_, err = w.Write(data)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		if packed := buf.Len() < len(data); packed != (mediaType != ocispec.MediaTypeImageLayer) {
			t.Errorf("%s takes %d of %d bytes", mediaType, buf.Len(), len(data))
		}
		r, err := decompress(&buf)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s does not come back: %d bytes, %v", mediaType, len(got), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

func FuzzDecompress(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0x1f, 0x8b, 8, 0})
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x00})
	f.Add([]byte("plain"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decompress(bytes.NewReader(data))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(r, 1<<20))
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestNames(t *testing.T) {
	for _, test := range []struct {
		text, id string
		want     bool
	}{
		{"/var/overlay/1a/fs", "1a", true}, {"/var/overlay/1a/fs", "1", false}, {"/var/overlay/11a/fs", "1a", false},
		{"{fake 7  [rw]}", "7", true}, {"lowerdir=/o/2/fs:/o/1/fs", "1", true}, {"12 /1/", "1", true}, {"", "1", false}, {"1", "1", true},
	} {
		if names(test.text, test.id) != test.want {
			t.Errorf("names(%q, %q) is %v", test.text, test.id, !test.want)
		}
	}
}
