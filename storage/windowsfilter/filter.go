package windowsfilter

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"

	maxEntries = 4 << 20 // of a layer; Windows Server's largest base image has some 200,000
	maxStreams = 1000    // of a file
)

type entryKind uint8

const (
	aFile entryKind = iota + 1
	aDirectory
	aLink     // symbolic, or a junction
	aHardLink // to a file
	gone
)

// filter passes on the entries of one layer's tar that are in order, and knows what it has passed.
type filter struct {
	parents []string // directories of the layer's parents
	images  bool     // the layer is to be a composite image, as its parents are: what these have is not known here
	seed    maphash.Seed
	seen    map[uint64]entryKind // by the hash of the folded name

	file    string // the last entry, unless it is another name of one: streams of it may follow
	streams int
}

// copyLayer copies a layer's tar from r to w. What it writes is in the form that hcsshim takes: clean names, directories before what
// is in them, nothing twice, nothing below a link, streams right behind their file. InvalidArgument, with the entry, for a tar that is not so.
func copyLayer(ctx context.Context, w io.Writer, r io.Reader, parents []string) error {
	return newFilter(parents).copy(ctx, w, r)
}

func newFilter(parents []string) *filter {
	return &filter{parents: parents, seed: maphash.MakeSeed(), seen: map[uint64]entryKind{}}
}

func (f *filter) copy(ctx context.Context, w io.Writer, r io.Reader) error {
	in, out := tar.NewReader(r), tar.NewWriter(w)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := in.Next()
		if err == io.EOF {
			return out.Close()
		}
		if err != nil {
			return readError(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		pass, err := f.check(h)
		if err != nil {
			return err
		}
		if err := out.WriteHeader(pass); err != nil {
			return fmt.Errorf("%s: %w", pass.Name, err)
		}
		if pass.Typeflag != tar.TypeReg {
			continue
		}
		if _, err := io.Copy(out, in); err != nil {
			return fmt.Errorf("%s: %w", pass.Name, readError(err))
		}
	}
}

// readError tells a tar that is broken from a source that is.
func readError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the layer's tar is broken: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return err
}

// check answers the header to pass on for one of the tar.
func (f *filter) check(h *tar.Header) (*tar.Header, error) {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") { // a short tar may have a file without end
			return nil, refuse("%.200q: sparse files cannot be in a layer of Windows", h.Name)
		}
	}
	if base := path.Base(h.Name); strings.HasPrefix(base, whiteout) {
		return f.whiteout(h, base)
	}
	name, stream, err := entryName(h.Name)
	if err != nil {
		return nil, err
	}
	if stream != "" {
		return f.stream(h, name, stream)
	}
	f.file, f.streams = "", 0
	out, err := checkHeader(h, name)
	if err != nil {
		return nil, err
	}
	kind := map[byte]entryKind{tar.TypeReg: aFile, tar.TypeDir: aDirectory, tar.TypeSymlink: aLink, tar.TypeLink: aHardLink}[h.Typeflag]
	if kind == aHardLink {
		err = f.target(name, out.Linkname)
	}
	if err == nil {
		err = f.add(name, kind)
	}
	if kind != aHardLink {
		f.file = name
	}
	return out, err
}

// whiteout checks an entry that hides one of a parent, which hcsshim makes a tombstone of.
func (f *filter) whiteout(h *tar.Header, base string) (*tar.Header, error) {
	f.file, f.streams = "", 0
	if base == opaque {
		return nil, fmt.Errorf("%.200q: layers of Windows cannot hide all of a directory at once; build the image on Windows: %w", h.Name, errdefs.ErrNotImplemented)
	}
	name, stream, err := entryName(path.Dir(h.Name) + "/" + strings.TrimPrefix(base, whiteout))
	switch {
	case err != nil:
		return nil, err
	case stream != "":
		return nil, refuse("%.200q hides a stream", h.Name)
	case len(f.parents) == 0:
		return nil, refuse("%.200q hides a file, but the layer has no parent", h.Name)
	case !strings.HasPrefix(name, "Files/") && !strings.HasPrefix(name, "UtilityVM/Files/"):
		return nil, refuse("%.200q hides what is no file of the container", h.Name)
	case strings.HasPrefix(name, "Files/") && f.seen[f.key(path.Dir(name))] != aDirectory: // Windows would not look into it, and what is hidden would show
		return nil, refuse("%.200q hides a file in a directory that the layer does not have before it", h.Name)
	}
	if k := f.seen[f.key(name)]; k != 0 {
		return nil, refuse("%s is in the layer and hidden by it", name)
	}
	f.seen[f.key(name)] = gone
	return &tar.Header{Typeflag: tar.TypeReg, Name: path.Dir(name) + "/" + whiteout + path.Base(name), ModTime: h.ModTime, Format: tar.FormatPAX}, f.full()
}

// stream checks an alternate stream, which is an entry behind the one of its file, with the name FILE:STREAM.
func (f *filter) stream(h *tar.Header, name, stream string) (*tar.Header, error) {
	if f.file != name || h.Typeflag != tar.TypeReg {
		return nil, refuse("%.300q is a stream, but of no file right before it", h.Name)
	}
	if f.images { // hcsshim 0.15 expects names that no layer has, and then loses count of what it writes
		return nil, fmt.Errorf("%.300q: layers in CimFS cannot have alternate streams; use the snapshotter \"windows\": %w", h.Name, errdefs.ErrNotImplemented)
	}
	if f.streams++; f.streams > maxStreams {
		return nil, refuse("%s has more than %d streams", name, maxStreams)
	}
	return &tar.Header{Typeflag: tar.TypeReg, Name: name + ":" + stream, Size: h.Size, ModTime: h.ModTime, Format: tar.FormatPAX}, nil
}

// add notes an entry. Its directory must be there before it.
func (f *filter) add(name string, kind entryKind) error {
	if dir := path.Dir(name); dir != "." && f.seen[f.key(dir)] != aDirectory {
		if f.seen[f.key(dir)] == 0 {
			return refuse("%s comes before the directory that it is in", name)
		}
		return refuse("%s is in %s, which is no directory", name, dir)
	}
	switch k := f.seen[f.key(name)]; {
	case k == gone:
		return refuse("%s is in the layer and hidden by it", name)
	case k != 0:
		return refuse("%s is in the layer twice: names on Windows are the same in capitals", name)
	}
	f.seen[f.key(name)] = kind
	return f.full()
}

func (f *filter) full() error {
	if len(f.seen) > maxEntries {
		return fmt.Errorf("the layer has more than %d entries: %w", maxEntries, errdefs.ErrOutOfRange)
	}
	return nil
}

// target checks what a hard link leads to: a file of the layer or of a parent.
func (f *filter) target(name, target string) error {
	if strings.HasPrefix(name, "UtilityVM/") != strings.HasPrefix(target, "UtilityVM/") || strings.HasPrefix(name, "Hives") || strings.HasPrefix(target, "Hives") {
		return refuse("%s cannot be a link to %s", name, target)
	}
	switch f.seen[f.key(target)] {
	case aFile, aLink, aHardLink:
		return nil
	case 0:
		if f.images && len(f.parents) > 0 {
			return nil // CimFS looks
		}
		for _, p := range f.parents {
			if info, err := os.Lstat(filepath.Join(p, filepath.FromSlash(target))); err == nil && !info.IsDir() {
				return nil
			}
		}
	}
	return refuse("%s is a link to %s, which is no file of the layer before it or of a parent", name, target)
}

func (f *filter) key(name string) uint64 { return maphash.String(f.seed, fold(name)) }
