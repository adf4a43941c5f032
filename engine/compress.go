package engine

import (
	"bufio"
	"bytes"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of layers besides OCI's own. To Docker's ".gzip" or ".zstd" is appended; the foreign ones are deprecated and
// still met.
const (
	dockerLayer        = "application/vnd.docker.image.rootfs.diff.tar"
	dockerForeignLayer = "application/vnd.docker.image.rootfs.foreign.diff.tar"
	foreignLayer       = "application/vnd.oci.image.layer.nondistributable.v1.tar"
)

// maxWindow bounds what a zstd frame may make us hold, in bytes; the largest that `zstd -19 --long` asks for by default.
const maxWindow = 128 << 20

// isLayer tells whether a media type is one of a tar that may be compressed, and nothing more (such as encrypted).
func isLayer(mediaType string) bool {
	base, _, _ := strings.Cut(mediaType, "+")
	switch base {
	case ocispec.MediaTypeImageLayer, foreignLayer, dockerLayer, dockerLayer + ".gzip", dockerLayer + ".zstd", dockerForeignLayer + ".gzip":
	default:
		return false
	}
	_, suffix, _ := strings.Cut(mediaType, "+")
	return suffix == "" || suffix == "gzip" || suffix == "zstd"
}

// decompress undoes what the first bytes of r tell, as media types are often wrong about it.
func decompress(r io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(r, 256<<10)
	magic, err := buffered.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}): // RFC 1952, 2.3.1
		return gzip.NewReader(buffered)
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}): // RFC 8878, 3.1.1
		d, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(buffered), nil
}

// compress answers a writer of what mediaType asks for; the caller closes it.
func compress(mediaType string, w io.Writer) (io.WriteCloser, error) {
	switch {
	case strings.HasSuffix(mediaType, "gzip"):
		return gzip.NewWriterLevel(w, gzip.DefaultCompression)
	case strings.HasSuffix(mediaType, "zstd"):
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	}
	return nopCloser{w}, nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
