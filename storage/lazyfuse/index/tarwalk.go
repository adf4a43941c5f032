package index

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"math"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/twinsum"
)

const (
	block      = 512
	maxHeaders = 4 << 20 // bytes of all headers of one entry
	xattrKey   = "SCHILY.xattr."
)

// tarWalk builds a tree from a tar that is written to it piece by piece. It finds where entries begin and end; what a header
// means it leaves to archive/tar, which unpacks layers too.
type tarWalk struct {
	*builder
	pos     int64        // in the archive
	headers []byte       // of the entry that is coming: PAX and GNU ones, then its own
	want    int          // bytes of headers until something can be said
	payload bool         // the last of them are not a block but what belongs to one
	left    int64        // bytes of content
	padding int64        // bytes after it
	file    uint32       // whose content it is, 0 for none
	sum     twinsum.Hash // of that file
	whole   twinsum.Hash // of all that was written, understood or not
	ended   bool
	err     error // nothing more is understood
}

func newTarWalk(b *builder) *tarWalk {
	return &tarWalk{builder: b, want: block, sum: sha256.New().(twinsum.Hash), whole: sha256.New().(twinsum.Hash)}
}

func (t *tarWalk) write(p []byte) {
	hashed := 0 // bytes at the front of p that are in whole
	for rest := p; len(rest) > 0 && !t.ended && t.err == nil; {
		var n int
		switch {
		case t.left > 0:
			n = int(min(int64(len(rest)), t.left))
			if t.file > 0 {
				at := len(p) - len(rest)
				_, _ = t.whole.Write(p[hashed:at]) // hashes do not fail
				twinsum.Write(t.whole, t.sum, rest[:n])
				hashed = at + n
			}
			if t.left -= int64(n); t.left == 0 {
				t.endContent()
			}
		case t.padding > 0:
			n = int(min(int64(len(rest)), t.padding))
			t.padding -= int64(n)
		default:
			n = min(len(rest), t.want-len(t.headers))
			t.headers = append(t.headers, rest[:n]...)
		}
		rest, t.pos = rest[n:], t.pos+int64(n)
		if len(t.headers) == t.want {
			t.err = t.header()
		}
	}
	_, _ = t.whole.Write(p[hashed:])
}

// endContent gives the file its digest.
func (t *tarWalk) endContent() {
	if t.file > 0 {
		t.x.nodes[t.file].digest = t.addDigest(t.sum.Sum(nil))
		t.sum.Reset()
		t.file = 0
	}
}

// header looks at what has been collected: there is more to come, or the entry is known.
func (t *tarWalk) header() error {
	if t.payload {
		t.payload, t.want = false, t.want+block
		return nil
	}
	last := t.headers[len(t.headers)-block:]
	switch last[156] {
	case tar.TypeXHeader, tar.TypeGNULongName, tar.TypeGNULongLink, tar.TypeXGlobalHeader:
		return t.extension(last)
	case tar.TypeGNUSparse:
		return unsupported("a sparse file in the archive at %d", t.pos)
	case 0:
		if bytes.Count(last, []byte{0}) == block {
			t.ended = true
			return nil
		}
	}
	hdr, err := tar.NewReader(bytes.NewReader(t.headers)).Next()
	if err != nil {
		return fmt.Errorf("cannot read the header before %d: %w (%w)", t.pos, err, errdefs.ErrInvalidArgument)
	}
	t.headers, t.want = t.headers[:0], block
	if err := t.entry(hdr); err != nil {
		return fmt.Errorf("cannot index %.300q: %w", hdr.Name, err)
	}
	return nil
}

// extension reads on after a header that says more about the next one.
func (t *tarWalk) extension(last []byte) error {
	// Its size is what archive/tar makes of the block if it were a file's.
	plain := bytes.Clone(last)
	plain[156] = tar.TypeReg
	sumHeader(plain)
	hdr, err := tar.NewReader(bytes.NewReader(plain)).Next()
	if err != nil {
		return fmt.Errorf("cannot read the header before %d: %w (%w)", t.pos, err, errdefs.ErrInvalidArgument)
	}
	size := hdr.Size + padding(hdr.Size)
	if hdr.Size < 0 || size > maxHeaders-int64(len(t.headers)) {
		return invalid("headers of %d bytes", hdr.Size)
	}
	if last[156] == tar.TypeXGlobalHeader { // layer.md gives it no meaning
		t.headers, t.want, t.padding = t.headers[:0], block, size
		return nil
	}
	t.payload = size > 0
	t.want += int(size)
	if !t.payload {
		t.want += block
	}
	return nil
}

// sumHeader sets a header's checksum: the sum of its bytes, with spaces in place of the checksum.
func sumHeader(p []byte) {
	copy(p[148:156], "        ")
	sum := 0
	for _, c := range p {
		sum += int(c)
	}
	copy(p[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

func padding(size int64) int64 { return -size & (block - 1) }

// entry puts what a header describes into the tree, and prepares for its content.
func (t *tarWalk) entry(hdr *tar.Header) error {
	f, err := tarFile(hdr)
	if err != nil {
		return err
	}
	switch hdr.Typeflag {
	case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
	default:
		t.left, t.padding = hdr.Size, padding(hdr.Size)
	}
	if f.node.mode&typeMask == typeReg {
		f.node.a, f.node.b = uint32(t.pos), uint32(t.pos>>32)
	}
	n, made, err := t.place(&f, true)
	if made && t.left > 0 {
		t.file = n
	}
	return err
}

func tarFile(hdr *tar.Header) (file, error) {
	f := file{path: hdr.Name, target: hdr.Linkname, hard: hdr.Typeflag == tar.TypeLink}
	if hdr.Uid < 0 || hdr.Gid < 0 || int64(hdr.Uid) >= math.MaxUint32 || int64(hdr.Gid) >= math.MaxUint32 {
		return f, invalid("owner %d:%d", hdr.Uid, hdr.Gid)
	}
	f.node = node{
		mode: uint32(hdr.Mode & 0o7777), uid: uint32(hdr.Uid), gid: uint32(hdr.Gid),
		sec: hdr.ModTime.Unix(), nsec: uint32(hdr.ModTime.Nanosecond()),
	}
	for record, value := range hdr.PAXRecords {
		if strings.HasPrefix(record, "GNU.sparse.") {
			return f, unsupported("a sparse file")
		}
		if name, ok := strings.CutPrefix(record, xattrKey); ok {
			if f.xattrs == nil {
				f.xattrs = map[string]string{}
			}
			f.xattrs[name] = value
		}
	}
	var err error
	switch hdr.Typeflag {
	case tar.TypeDir:
		f.node.mode |= typeDir
	case tar.TypeReg, tar.TypeCont:
		f.node.mode |= typeReg
		f.node.size = hdr.Size
	case tar.TypeLink:
	case tar.TypeSymlink:
		f.node.mode |= typeLink
	case tar.TypeFifo:
		f.node.mode |= typeFIFO
	case tar.TypeChar:
		f.node.mode |= typeChar
		f.node.a, err = mknod(hdr.Devmajor, hdr.Devminor)
	case tar.TypeBlock:
		f.node.mode |= typeBlock
		f.node.a, err = mknod(hdr.Devmajor, hdr.Devminor)
	default:
		err = invalid("unknown type %q of tar entry", hdr.Typeflag)
	}
	return f, err
}
