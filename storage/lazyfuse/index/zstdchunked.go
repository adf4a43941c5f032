package index

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// Annotations of a zstd:chunked layer (containers/storage, pkg/chunked), in what it writes now and in what it, and
// stargz-snapshotter still, wrote first.
var chunkedPrefixes = []string{"io.github.containers.zstd-chunked.", "io.containers.zstd-chunked."}

const (
	chunkedChecksum = "manifest-checksum" // of the compressed table
	chunkedPosition = "manifest-position" // offset:length:decompressed length:type

	chunkedFooter = 40 // and 64 where it also tells about tar-split
	chunkedType   = 1  // a table of contents like eStargz's
	maxWindow     = 8 << 20
)

// parseChunkedFooter finds the table of contents in a blob's last bytes: a skippable frame of little-endian numbers before
// one of two spellings of the magic.
func parseChunkedFooter(tail []byte) (offset, length, size int64, ok bool) {
	n := len(tail)
	if n < chunkedFooter+8 {
		return 0, 0, 0, false
	}
	if magic := string(tail[n-8:]); magic != "GNUlInUx" && magic != "GnUlInUx" {
		return 0, 0, 0, false
	}
	for _, footer := range []int{64, chunkedFooter} {
		if n < footer+8 || !bytes.HasPrefix(tail[n-footer-8:], []byte{0x50, 0x2a, 0x4d, 0x18, byte(footer), 0, 0, 0}) {
			continue
		}
		p := tail[n-footer:]
		word := func(i int) int64 { return int64(binary.LittleEndian.Uint64(p[8*i:])) }
		return word(0), word(1), word(2), word(3) == chunkedType
	}
	return 0, 0, 0, false
}

func parseChunkedPosition(text string) (offset, length, size int64, err error) {
	parts := strings.Split(text, ":")
	if len(parts) != 4 {
		return 0, 0, 0, invalid("position %.100q of a table of contents", text)
	}
	var v [4]int64
	for i, p := range parts {
		if v[i], err = strconv.ParseInt(p, 10, 64); err != nil {
			return 0, 0, 0, invalid("position %.100q of a table of contents", text)
		}
	}
	if v[3] != chunkedType {
		return 0, 0, 0, unsupported("table of contents of type %d", v[3])
	}
	return v[0], v[1], v[2], nil
}

// FromZstdChunked parses a table of contents as it is in the blob at offset: a zstd frame. want is the digest that the
// image's manifest has of the compressed table, and is checked before anything else is believed.
func FromZstdChunked(table []byte, blob, offset int64, want digest.Digest, limits Limits) (*Index, error) {
	limits = limits.withDefaults()
	if int64(len(table)) > limits.Bytes {
		return nil, tooMuch("a table of contents of %d bytes", len(table))
	}
	if err := sameDigest(digest.FromBytes(table), want); err != nil {
		return nil, err
	}
	zr, err := newZstd(bytes.NewReader(table))
	if err != nil {
		return nil, err
	}
	defer zr.Close()
	_, braces, err := hashed(zr, limits.Bytes)
	if err != nil {
		return nil, badZstd(err)
	}
	if braces/2 > limits.Nodes+limits.Units {
		return nil, tooMuch("a table of contents of about %d entries", braces)
	}
	if err := zr.Reset(bytes.NewReader(table)); err != nil {
		return nil, badZstd(err)
	}
	t, err := readTOC(ZstdChunked, zr, blob, offset, braces, limits)
	if err != nil {
		return nil, badZstd(err)
	}
	return t.end()
}

// badZstd gives what the decoder says about damaged data a kind.
func badZstd(err error) error {
	if err == nil || errdefs.IsInvalidArgument(err) || errdefs.IsNotImplemented(err) || errdefs.IsOutOfRange(err) || errdefs.IsDataLoss(err) {
		return err
	}
	return fmt.Errorf("zstd data is damaged: %w (%w)", err, errdefs.ErrInvalidArgument)
}

func newZstd(src io.Reader) (*zstd.Decoder, error) {
	return zstd.NewReader(src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
}

func sameDigest(got, want digest.Digest) error {
	if want == "" {
		return unsupported("nothing vouches for the layer's table of contents: its digest is not in the image's manifest")
	}
	if got != want {
		return fmt.Errorf("the table of contents has digest %s and not %s: %w", got, want, errdefs.ErrFailedPrecondition)
	}
	return nil
}
