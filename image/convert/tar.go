package convert

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	block      = 512
	maxHeaders = 4 << 20 // bytes of all headers of one entry
)

// archive reads a tar and keeps its bytes, so that it can be written again exactly as it was.
type archive struct {
	src *tap
	tar *tar.Reader
	pad int // bytes after the content of the last entry, up to a whole block
}

// entry is one of an archive's.
type entry struct {
	*tar.Header
	before, raw []byte    // what is left of the entry before up to a whole block, and the headers; valid until the next
	body        io.Reader // the content, nil when it can have none; to be read to its end
}

func newArchive(r io.Reader) *archive {
	src := &tap{r: r}
	return &archive{src: src, tar: tar.NewReader(src)}
}

// next answers io.EOF at the end, with the blocks that say so as raw; then rest has what is left. The content of the last entry must have been read.
func (a *archive) next() (entry, error) {
	a.src.kept, a.src.keep = a.src.kept[:0], true
	hdr, err := a.tar.Next()
	a.src.keep = false
	if errors.Is(err, errHeaders) || a.src.err != nil {
		return entry{}, errors.Join(err, a.src.err)
	}
	if err == io.EOF {
		n := min(a.pad, len(a.src.kept))
		return entry{before: a.src.kept[:n], raw: a.src.kept[n:]}, io.EOF
	}
	if err != nil {
		return entry{}, fmt.Errorf("the layer is no tar: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	e := entry{Header: hdr, before: a.src.kept[:a.pad], raw: a.src.kept[a.pad:]}
	if a.pad = 0; hasContent(hdr) {
		e.body, a.pad = a.tar, int(-hdr.Size&(block-1))
	}
	return e, nil
}

// rest is what follows the end of the archive.
func (a *archive) rest() io.Reader { return a.src.r }

// errContent is why the content of an entry could not be read.
func errContent(e entry, err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("cannot read %.300q in the layer: %w", e.Name, err)
}

func hasContent(h *tar.Header) bool {
	switch h.Typeflag {
	case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo, tar.TypeXGlobalHeader:
		return false
	}
	return true
}

// sparse files have fewer bytes in the archive than they seem to.
func sparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

var errHeaders = fmt.Errorf("headers of one entry of more than %d bytes: %w", maxHeaders, errdefs.ErrOutOfRange)

// tap keeps what passes.
type tap struct {
	r    io.Reader
	keep bool
	kept []byte
	err  error // of r, as it was
}

func (t *tap) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if t.keep {
		if len(t.kept)+n > maxHeaders {
			return 0, errHeaders
		}
		t.kept = append(t.kept, p[:n]...)
	}
	if err != nil && err != io.EOF {
		t.err = err
	}
	return n, err
}
