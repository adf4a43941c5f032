package index

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"io"
	"math"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/internal/inflate"
)

const (
	tocName       = "stargz.index.json"
	tocAnnotation = "containerd.io/snapshot/stargz/toc.digest"

	estargzFooter = 51
	stargzFooter  = 47
)

// parseStargzFooter finds the table of contents (stargz-snapshotter's docs/estargz.md, "Footer"): an empty gzip member
// whose extra field has the table's offset as 16 hexadecimal digits before STARGZ. Before eStargz, the field had no header.
func parseStargzFooter(tail []byte, blob int64) (offset, footer int64, ok bool) {
	for _, f := range []struct{ size, header int }{{estargzFooter, 4}, {stargzFooter, 0}} {
		if len(tail) < f.size {
			continue
		}
		p := tail[len(tail)-f.size:]
		extra := p[12 : 12+f.header+22]
		if p[0] != 0x1f || p[1] != 0x8b || p[3]&4 == 0 || int(binary.LittleEndian.Uint16(p[10:])) != len(extra) {
			continue
		}
		if f.header > 0 && (extra[0] != 'S' || extra[1] != 'G' || binary.LittleEndian.Uint16(extra[2:]) != 22) {
			continue
		}
		text := string(extra[f.header:])
		at, err := strconv.ParseInt(text[:16], 16, 64)
		if err != nil || text[16:] != "STARGZ" || at <= 0 || at >= blob-int64(f.size) {
			continue
		}
		return at, int64(f.size), true
	}
	return 0, 0, false
}

// FromEStargz parses a table of contents as it is in the blob from offset on: a tar with one file, compressed. want is the
// digest that the image's manifest has of the decompressed table, and is checked before anything else is believed.
// FailedPrecondition when it differs.
func FromEStargz(table []byte, blob, offset int64, want digest.Digest, limits Limits) (*Index, error) {
	limits = limits.withDefaults()
	src, err := openTable(table)
	if err != nil {
		return nil, err
	}
	got, braces, err := hashed(src, limits.Bytes)
	if err == nil {
		err = src.drain()
	}
	src.close()
	if err != nil {
		return nil, err
	}
	if err := sameDigest(got, want); err != nil {
		return nil, err
	}
	if braces/2 > limits.Nodes+limits.Units {
		return nil, tooMuch("a table of contents of about %d entries", braces)
	}
	again, err := openTable(table)
	if err != nil {
		return nil, err
	}
	defer again.close()
	t, err := readTOC(EStargz, again, blob, offset, braces, limits)
	if err != nil {
		return nil, err
	}
	if err := t.addTable(src, int64(len(table)), got); err != nil {
		return nil, err
	}
	return t.end()
}

// addTable puts the table itself into the tree, the tar's last file: no table lists it, but it is there when the layer is unpacked. Its
// unit is the tar's rest, with the header. That is not what the manifest vouches for, so what could do harm is left out. A table larger
// than a unit may be is not seen before the layer is here.
func (t *toc) addTable(src *tableReader, length int64, sum digest.Digest) error {
	h := src.header
	f, err := tarFile(&tar.Header{Typeflag: h.Typeflag, Name: h.Name, Size: h.Size, Mode: h.Mode & 0o777, Uid: h.Uid, Gid: h.Gid, ModTime: h.ModTime})
	if err != nil || src.all.n > t.limits.UnitSize || length > math.MaxUint32 {
		return err
	}
	node, _, err := t.place(&f, true)
	if err != nil {
		return err
	}
	content, err := sha256Of([]byte(sum))
	if err != nil {
		return err
	}
	n := &t.x.nodes[node]
	n.digest = t.addDigest(content)
	n.a, n.b = uint32(len(t.x.extents)), 1
	t.x.extents = append(t.x.extents, extent{unit: uint32(len(t.x.units)), from: uint32(src.skip)})
	t.x.units = append(t.x.units, unit{offset: t.payload, length: uint32(length), size: uint32(src.all.n), digest: t.addDigest(src.sum.Sum(nil))})
	t.x.skips = append(t.x.skips, 0)
	return nil
}

// tableReader reads the table out of its tar.
type tableReader struct {
	*tar.Reader
	header *tar.Header
	skip   int64     // bytes of the tar before the table
	all    *position // the tar
	sum    hash.Hash // of what was read of it
	zip    *inflate.Reader
}

// maxTrailer is how much may follow the table: its padding and the tar's end, which is of 10 KiB in some archives.
const maxTrailer = 64 << 10

// drain reads the tar to its end.
func (r *tableReader) drain() error {
	n, err := io.Copy(io.Discard, io.LimitReader(r.all, maxTrailer+1))
	if err == nil && n > maxTrailer {
		err = invalid("more than %d bytes after the table of contents", maxTrailer)
	}
	return err
}

func (r *tableReader) close() { _ = r.zip.Close() }

func openTable(table []byte) (*tableReader, error) {
	zr, err := inflate.NewReader(bytes.NewReader(table))
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	unpacked := &position{src: io.TeeReader(zr, sum)}
	tr := tar.NewReader(unpacked)
	hdr, err := tr.Next()
	if err == nil && (hdr.Name != tocName || hdr.Typeflag != tar.TypeReg) {
		err = invalid("the table of contents is called %.100q", hdr.Name)
	}
	if err != nil {
		_ = zr.Close()
		return nil, invalid("no table of contents in the layer: %v", err)
	}
	return &tableReader{tr, hdr, unpacked.n, unpacked, sum, zr}, nil
}
