package convert

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// chunkSize is how much of a file is compressed alone, in bytes: a reader of one byte fetches that much at most.
const chunkSize = 1 << 20

// maxDiff bounds an uncompressed layer, in bytes, as pulls do.
const maxDiff = 256 << 30

// format is what makes eStargz and zstd:chunked differ.
type format interface {
	// pack appends raw to dst, compressed so that it can be read alone. It is safe for concurrent use, and the same raw gives
	// the same bytes.
	pack(dst, raw []byte) []byte
	// verbatim says that the archive stays what it was to the last byte, and that a piece of a file has nothing else after it.
	verbatim() bool
	// headers, opened and content are told what of the archive is written: bytes that are no file's, the name and size of an
	// entry, its bytes.
	headers(raw []byte)
	opened(name string, size int64)
	content(p []byte)
	// tail is what follows the entries in a blob that has offset bytes so far, and size when it is decompressed.
	tail(t *toc, offset, size int64) (tail, error)
}

// tail is a format's end of a blob.
type tail struct {
	blob        []byte
	diff        []byte // what it is when decompressed
	annotations map[string]string
}

// written is what a layer became.
type written struct {
	diffID      digest.Digest
	size        int64 // of the uncompressed archive
	annotations map[string]string
}

// writer makes a blob of the entries of an archive.
type writer struct {
	format format
	table  *toc
	packer *packer
	piece  *piece // being filled
	diff   hash.Hash
	size   int64
}

func newWriter(dst io.Writer, f format) *writer {
	return &writer{format: f, table: newTOC(f.verbatim()), packer: newPacker(dst, f), piece: newPiece(), diff: sha256.New()}
}

// add writes the next entry, but what it is followed by up to a whole block.
func (w *writer) add(e entry) error {
	t, err := w.table.add(e.Header)
	if err != nil {
		return err
	}
	if err := w.bytes(e.raw); err != nil {
		return err
	}
	w.format.opened(e.Name, e.Size)
	if e.body == nil || e.Size == 0 {
		return nil
	}
	return w.body(t, e)
}

// bytes writes what is not of a file.
func (w *writer) bytes(raw []byte) error {
	if len(raw) == 0 {
		return nil
	}
	if w.format.verbatim() && w.piece.entry != nil || len(w.piece.raw)+len(raw) > 2*chunkSize {
		if err := w.flush(); err != nil {
			return err
		}
	}
	w.format.headers(raw)
	w.piece.raw = append(w.piece.raw, raw...)
	return nil
}

// flush hands the piece over.
func (w *writer) flush() error {
	if len(w.piece.raw) == 0 {
		return nil
	}
	if err := w.count(w.piece.raw); err != nil {
		return err
	}
	full := w.piece
	w.piece = newPiece()
	return w.packer.put(full)
}

func (w *writer) count(diff []byte) error {
	if w.size += int64(len(diff)); w.size > maxDiff {
		return fmt.Errorf("the uncompressed layer is larger than %d bytes: %w", int64(maxDiff), errdefs.ErrOutOfRange)
	}
	w.diff.Write(diff)
	return nil
}

// body writes the content of an entry, which the table knows as t.
func (w *writer) body(t *tocEntry, e entry) error {
	whole := sha256.New()
	for at, offset := t, int64(0); offset < e.Size; {
		n := min(chunkSize, e.Size-offset)
		if err := w.flush(); err != nil {
			return err
		}
		if offset > 0 {
			var err error
			if at, err = w.table.chunk(t, offset, n); err != nil {
				return err
			}
		} else if n < e.Size {
			t.ChunkSize = n
		}
		p := w.piece
		p.raw = slices.Grow(p.raw, int(n))[:n]
		p.body, p.entry = int(n), at
		if _, err := io.ReadFull(e.body, p.raw); err != nil {
			return errContent(e, err)
		}
		w.format.content(p.raw)
		if n < e.Size {
			whole.Write(p.raw)
		}
		offset += n
	}
	if t.ChunkSize > 0 {
		t.Digest = digest.NewDigest(digest.SHA256, whole).String()
	}
	return nil
}

// end writes the format's end. Whatever happened before, it must be called or abandon.
func (w *writer) end(dst io.Writer) (written, error) {
	err := w.flush()
	if closeErr := w.packer.close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return written{}, err
	}
	t, err := w.format.tail(w.table, w.packer.offset, w.size)
	if err != nil {
		return written{}, err
	}
	if err := w.count(t.diff); err != nil {
		return written{}, err
	}
	if _, err := dst.Write(t.blob); err != nil {
		return written{}, err
	}
	return written{digest.NewDigest(digest.SHA256, w.diff), w.size, t.annotations}, nil
}

// abandon waits for what is under way. What was written is worth nothing.
func (w *writer) abandon() { _ = w.packer.close() }
