package convert

import (
	"archive/tar"
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// tocEntry is an entry of the table of contents that both formats share (stargz-snapshotter's docs/estargz.md, "TOCEntry";
// containers/storage, pkg/chunked/internal/minimal, FileMetadata).
type tocEntry struct {
	Name        string            `json:"name"`
	Type        string            `json:"type"`
	LinkName    string            `json:"linkName,omitempty"`
	Mode        int64             `json:"mode,omitempty"`
	Size        int64             `json:"size,omitempty"`
	UID         int               `json:"uid,omitempty"`
	GID         int               `json:"gid,omitempty"`
	ModTime     string            `json:"modtime,omitempty"`
	AccessTime  string            `json:"accesstime,omitempty"`
	ChangeTime  string            `json:"changetime,omitempty"`
	DevMajor    int64             `json:"devMajor,omitempty"`
	DevMinor    int64             `json:"devMinor,omitempty"`
	Xattrs      map[string][]byte `json:"xattrs,omitempty"`
	Digest      string            `json:"digest,omitempty"`
	Offset      int64             `json:"offset,omitempty"`
	EndOffset   int64             `json:"endOffset,omitempty"`
	ChunkSize   int64             `json:"chunkSize,omitempty"`
	ChunkOffset int64             `json:"chunkOffset,omitempty"`
	ChunkDigest string            `json:"chunkDigest,omitempty"`

	replaced bool // by a later one of the same name
	linked   bool // has hard links
	implied  bool // a directory that only its files tell of; not in the table
}

// Bounds of a table; what is beyond them is rather pulled in full.
const (
	maxEntries = 1 << 20
	maxText    = 96 << 20
)

// unfit is why a layer cannot have a table of contents. It stays as it is then.
type unfit struct{ why string }

func (u unfit) Error() string { return u.why }
func (u unfit) Unwrap() error { return errdefs.ErrNotImplemented }

func errUnfit(format string, args ...any) error { return unfit{fmt.Sprintf(format, args...)} }

// toc collects the entries of an archive. The tree they make is the archive's: what cannot be said so is unfit.
type toc struct {
	entries []*tocEntry
	at      map[string]*tocEntry // the last of each clean path
	dir     string               // the last directory that was looked at
	text    int
	times   bool // keep access and change times
	tidy    bool // the table has every entry of the archive, as it is there
}

func newTOC(times bool) *toc { return &toc{at: map[string]*tocEntry{}, times: times, tidy: true} }

var tocTypes = map[byte]string{
	tar.TypeReg: "reg", tar.TypeLink: "hardlink", tar.TypeSymlink: "symlink", tar.TypeDir: "dir",
	tar.TypeChar: "char", tar.TypeBlock: "block", tar.TypeFifo: "fifo",
}

// add takes the next entry of the archive. The answer is nil for one that describes no file.
func (t *toc) add(h *tar.Header) (*tocEntry, error) {
	if h.Typeflag == tar.TypeXGlobalHeader { // layer.md gives it no meaning
		t.tidy = false
		return nil, nil
	}
	name := clean(h.Name)
	kind, known := tocTypes[h.Typeflag]
	switch {
	case sparse(h):
		return nil, errUnfit("%.300q is a sparse file", h.Name)
	case !known:
		return nil, errUnfit("%.300q has type %q", h.Name, h.Typeflag)
	case !utf8.ValidString(h.Name) || !utf8.ValidString(h.Linkname):
		return nil, errUnfit("name %.300q is not UTF-8", h.Name)
	case strings.HasPrefix(h.Name, "/") || slices.Contains(strings.Split(h.Name, "/"), ".."):
		return nil, errUnfit("name %.300q is not relative", h.Name)
	case name == "" && kind != "dir":
		return nil, errUnfit("the root is not a directory")
	case h.Size < 0:
		return nil, errUnfit("%.300q has a size of %d", h.Name, h.Size)
	}
	e := &tocEntry{
		Name: h.Name, Type: kind, LinkName: h.Linkname, Mode: h.Mode, UID: h.Uid, GID: h.Gid,
		ModTime: timeOf(h.ModTime), DevMajor: h.Devmajor, DevMinor: h.Devminor,
	}
	if kind == "reg" {
		e.Size = h.Size
	} else if h.Size != 0 {
		t.tidy = false
	}
	if t.times {
		e.AccessTime, e.ChangeTime = timeOf(h.AccessTime), timeOf(h.ChangeTime)
	}
	if err := e.setXattrs(h); err != nil {
		return nil, err
	}
	return e, t.enter(name, e)
}

// clean is a path as the table's readers look it up, empty for the root.
func clean(name string) string { return path.Clean("/" + name)[1:] }

func timeOf(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func (e *tocEntry) setXattrs(h *tar.Header) error {
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok {
			continue
		}
		if !utf8.ValidString(name) {
			return errUnfit("extended attribute %.300q of %.300q is not UTF-8", name, h.Name)
		}
		if e.Xattrs == nil {
			e.Xattrs = map[string][]byte{}
		}
		e.Xattrs[name] = []byte(value)
	}
	return nil
}

// enter gives e its place in the tree.
func (t *toc) enter(name string, e *tocEntry) error {
	if err := t.parents(name); err != nil {
		return err
	}
	if e.Type == "hardlink" {
		target := t.at[clean(e.LinkName)]
		if target == nil || target.Type == "dir" {
			return errUnfit("hard link %.300q leads to %.300q, which is no file before it in the layer", e.Name, e.LinkName)
		}
		target.linked = true
	}
	if old := t.at[name]; old != nil {
		switch {
		case old.implied && e.Type == "dir":
		case (old.Type == "dir") != (e.Type == "dir"):
			return errUnfit("%.300q is a directory and something else", e.Name)
		case old.linked:
			return errUnfit("%.300q is replaced after another name was given to it", e.Name)
		default:
			old.replaced, t.tidy = true, false
		}
	}
	t.at[name] = e
	return t.keep(e)
}

// parents looks whether the way to name leads through directories, as far as they are in this layer.
func (t *toc) parents(name string) error {
	dir := path.Dir(name)
	if dir == t.dir {
		return nil
	}
	for p := dir; p != "."; p = path.Dir(p) {
		e := t.at[p]
		if e == nil {
			t.at[p] = &tocEntry{Type: "dir", implied: true}
		} else if e.Type != "dir" {
			return errUnfit("%.300q is in %.300q, which is no directory in this layer", name, p)
		}
	}
	t.dir = dir
	return nil
}

func (t *toc) keep(e *tocEntry) error {
	t.entries = append(t.entries, e)
	t.text += len(e.Name) + len(e.LinkName)
	for k, v := range e.Xattrs {
		t.text += len(k) + 2*len(v)
	}
	if len(t.entries) > maxEntries || t.text > maxText {
		return errUnfit("more than %d files, or names of more than %d bytes", maxEntries, maxText)
	}
	return nil
}

// chunk adds a further piece of the file e, which was the last entry.
func (t *toc) chunk(e *tocEntry, offset, size int64) (*tocEntry, error) {
	c := &tocEntry{Name: e.Name, Type: "chunk", ChunkOffset: offset, ChunkSize: size}
	return c, t.keep(c)
}

// write writes the table as JSON, without what was replaced. split is the digest of tar-split's record, empty for none.
func (t *toc) write(w io.Writer, split digest.Digest) error {
	out := bufio.NewWriter(w) // keeps its first error
	_, _ = out.WriteString(`{"version":1`)
	if split != "" {
		fmt.Fprintf(out, `,"tarSplitDigest":%q`, split)
	}
	_, _ = out.WriteString(`,"entries":[`)
	for i, e := range t.described() {
		if i > 0 {
			_ = out.WriteByte(',')
		}
		text, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("cannot describe %.300q: %w", e.Name, err)
		}
		_, _ = out.Write(text)
	}
	_, _ = out.WriteString("]}")
	return out.Flush()
}

// described is what the table says, when all is written.
func (t *toc) described() []*tocEntry {
	var out []*tocEntry
	replaced := false
	for _, e := range t.entries {
		if e.Type != "chunk" {
			replaced = e.replaced
		}
		if replaced {
			continue
		}
		if e.Digest == "" && e.Type == "reg" {
			e.Digest = e.ChunkDigest // its only piece
		}
		out = append(out, e)
	}
	return out
}
