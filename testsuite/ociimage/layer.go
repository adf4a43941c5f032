package ociimage

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Compression of a layer.
type Compression int

const (
	Gzip Compression = iota
	Zstd
	None
	EStargz // gzip with a table of contents, which the layer's annotations vouch for; the table is a file more in the tar
)

// Layer is what one layer is built from.
type Layer struct {
	Files       []File
	Compression Compression
	// Tar is used in place of Files when it is not nil: an archive as it is, hostile or broken.
	Tar []byte
	// MediaType and DiffID lie about the layer when they are not empty.
	MediaType   string
	DiffID      digest.Digest
	Annotations map[string]string // of its descriptor
	URLs        []string          // of its descriptor
}

// File is one entry of a layer's tar. A header without Typeflag is a regular file; Size is taken from Body.
type File struct {
	tar.Header
	Body []byte
}

// Epoch is the modification time of entries that name none.
var Epoch = time.Unix(1_700_000_000, 0).UTC()

// Regular is a plain file. Permission bits and setuid (0o4000) go by the values of chmod(1).
func Regular(name string, mode int64, body string) File {
	return File{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, Body: []byte(body)}
}

// Dir is a directory.
func Dir(name string, mode int64) File {
	return File{Header: tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimSuffix(name, "/") + "/", Mode: mode}}
}

// Symlink is a symbolic link to target.
func Symlink(name, target string) File {
	return File{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

// Hardlink is another name of the entry target, which has to come before it.
func Hardlink(name, target string) File {
	return File{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}}
}

// Whiteout hides name of the layers below (image-spec layer.md, "Whiteouts").
func Whiteout(name string) File {
	dir, base := "", name
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		dir, base = name[:i+1], name[i+1:]
	}
	return Regular(dir+".wh."+base, 0o644, "")
}

// Opaque hides all that the layers below have in dir (image-spec layer.md, "Opaque Whiteout").
func Opaque(dir string) File {
	return Regular(strings.TrimSuffix(dir, "/")+"/.wh..wh..opq", 0o644, "")
}

// TarBytes is the archive of some files.
func TarBytes(files []File) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := f.Header
		h.Size = int64(len(f.Body))
		if h.ModTime.IsZero() {
			h.ModTime = Epoch
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(&h); err != nil {
			return nil, fmt.Errorf("entry %q: %w", h.Name, err)
		}
		if _, err := w.Write(f.Body); err != nil {
			return nil, fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// build answers the layer's tar, the same compressed, and its media type.
func (l *Layer) build(format Format) (raw, packed []byte, mediaType string, err error) {
	raw = l.Tar
	if raw == nil {
		if raw, err = TarBytes(l.Files); err != nil {
			return nil, nil, "", err
		}
	}
	if l.Compression == EStargz {
		if raw, packed, err = l.stargz(raw); err != nil {
			return nil, nil, "", err
		}
		return raw, packed, cmp.Or(l.MediaType, layerType(format, Gzip)), nil
	}
	if packed, err = Compress(raw, l.Compression); err != nil {
		return nil, nil, "", err
	}
	return raw, packed, cmp.Or(l.MediaType, layerType(format, l.Compression)), nil
}

// stargz answers the tar with its table of contents, and both compressed, and annotates the layer.
func (l *Layer) stargz(tar []byte) (raw, packed []byte, err error) {
	blob, err := estargz.Build(io.NewSectionReader(bytes.NewReader(tar), 0, int64(len(tar))), estargz.WithChunkSize(64<<10))
	if err != nil {
		return nil, nil, err
	}
	defer blob.Close()
	if packed, err = io.ReadAll(blob); err != nil {
		return nil, nil, err
	}
	zr, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, nil, err
	}
	if raw, err = io.ReadAll(zr); err != nil {
		return nil, nil, err
	}
	l.Annotations = maps.Clone(l.Annotations)
	if l.Annotations == nil {
		l.Annotations = map[string]string{}
	}
	l.Annotations[estargz.TOCJSONDigestAnnotation] = blob.TOCDigest().String()
	return raw, packed, nil
}

func layerType(format Format, c Compression) string {
	plain, suffix := ocispec.MediaTypeImageLayer, map[Compression]string{Gzip: "+gzip", Zstd: "+zstd"}[c]
	if format == Docker {
		plain, suffix = DockerLayer, strings.Replace(suffix, "+", ".", 1)
	}
	return plain + suffix
}

// Compress packs data. Docker's layers are "tar.gzip" by media type and plain gzip by content, as OCI's.
func Compress(data []byte, c Compression) ([]byte, error) {
	var buf bytes.Buffer
	var w io.WriteCloser
	var err error
	switch c {
	case None:
		return data, nil
	case Gzip:
		w, err = gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	case Zstd:
		w, err = zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	default:
		err = fmt.Errorf("unknown compression %d", c)
	}
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
