package index

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"io"
	"math"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// The table of contents that eStargz and zstd:chunked share: {"version":1,"entries":[…]} with an entry for each name, and
// one of type "chunk" for each further piece of a large file, right after it.

// tocEntry is one element of entries. It is used again for the next.
type tocEntry struct {
	path, kind, target   string
	mode, uid, gid, size int64
	major, minor         int64
	modTime              time.Time
	xattrs               map[string]string
	digest, chunkDigest  []byte // nil when there is none
	offset, end, inner   int64
	chunkOffset          int64
	chunkSize            int64
	zeros                bool // the piece need not be fetched
}

// toc reads one document into a builder.
type toc struct {
	*scanner
	*builder
	entry   tocEntry
	version int64
	file    uint32 // the node whose pieces are being read, 0 for none
	path    string // its name in the document
	reached int64  // where its pieces end so far
	inner   bool   // some unit is not at the start of what is fetched

	payload int64 // where the blob's payload ends
}

// readTOC reads a document whose digest has been checked; end makes the index of it. payload is the end of what units may lie in.
func readTOC(kind Kind, src io.Reader, blob, payload int64, names int, limits Limits) (*toc, error) {
	t := &toc{scanner: &scanner{src: src}, builder: newBuilder(kind, blob, limits), payload: payload}
	t.grow(names)
	t.x.codec = codecGzip
	if kind == ZstdChunked {
		t.x.codec = codecZstd
	}
	err := t.object(func(key []byte) error {
		switch string(key) {
		case "version":
			v, err := t.integer()
			t.version = v
			return err
		case "entries":
			return t.array(t.element)
		}
		return t.skip(0)
	})
	if err == nil {
		err = t.done()
	}
	if err == nil && t.version != 1 {
		err = unsupported("table of contents of version %d", t.version)
	}
	if err == nil {
		err = t.endFile()
	}
	return t, err
}

func (t *toc) end() (*Index, error) {
	if err := t.lengths(); err != nil {
		return nil, err
	}
	return t.finish()
}

func (t *toc) element() error {
	e := &t.entry
	*e = tocEntry{}
	if err := t.object(t.field); err != nil {
		return err
	}
	if e.kind == "chunk" {
		return t.chunk()
	}
	if err := t.endFile(); err != nil {
		return err
	}
	t.landmark()
	f, err := t.fileOf()
	if err != nil {
		return err
	}
	if err := relative(f.path); err != nil {
		return err
	}
	node, made, err := t.place(&f, false)
	if err != nil || !made || e.kind != "reg" {
		return err
	}
	n := &t.x.nodes[node]
	n.a = uint32(len(t.x.extents))
	if e.digest != nil {
		n.digest = t.addDigest(e.digest)
	}
	if t.file, t.path, t.reached = node, e.path, 0; n.size == 0 {
		return nil
	}
	return t.piece()
}

func (t *toc) field(key []byte) (err error) {
	e := &t.entry
	switch string(key) {
	case "name":
		e.path, err = t.textOf(maxPath + 2)
	case "type":
		e.kind, err = t.textOf(maxLiteral)
	case "linkName":
		e.target, err = t.textOf(maxPath)
	case "mode":
		e.mode, err = t.integer()
	case "uid":
		e.uid, err = t.integer()
	case "gid":
		e.gid, err = t.integer()
	case "size":
		e.size, err = t.integer()
	case "devMajor":
		e.major, err = t.integer()
	case "devMinor":
		e.minor, err = t.integer()
	case "modtime":
		e.modTime, err = t.timeOf()
	case "xattrs":
		e.xattrs, err = t.xattrsOf()
	case "digest":
		e.digest, err = t.digestOf()
	case "chunkDigest":
		e.chunkDigest, err = t.digestOf()
	case "offset":
		e.offset, err = t.integer()
	case "endOffset":
		e.end, err = t.integer()
	case "innerOffset":
		e.inner, err = t.integer()
	case "chunkOffset":
		e.chunkOffset, err = t.integer()
	case "chunkSize":
		e.chunkSize, err = t.integer()
	case "chunkType":
		var kind string
		if kind, err = t.textOf(maxLiteral); err == nil && kind != "" && kind != "zeros" {
			err = unsupported("piece of type %q", kind)
		}
		e.zeros = kind == "zeros"
	default:
		err = t.skip(0)
	}
	return err
}

// textOf reads a string; null is an empty one.
func (t *toc) textOf(limit int) (string, error) {
	if isNull, err := t.null(); isNull || err != nil {
		return "", err
	}
	text, err := t.scanner.string(limit)
	switch string(text) { // the types, of which there is one in each entry
	case "reg":
		return "reg", err
	case "dir":
		return "dir", err
	case "symlink":
		return "symlink", err
	}
	return string(text), err
}

func (t *toc) timeOf() (time.Time, error) {
	text, err := t.textOf(64)
	if err != nil || text == "" {
		return time.Unix(0, 0), err
	}
	when, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return when, invalid("time %q", text)
	}
	return when, nil
}

func (t *toc) xattrsOf() (map[string]string, error) {
	var set map[string]string
	err := t.object(func(key []byte) error {
		name := string(key)
		text, err := t.textOf(base64.StdEncoding.EncodedLen(maxXattrSize))
		if err != nil {
			return err
		}
		value, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(set) >= maxXattrs {
			return invalid("extended attribute %.300q", name)
		}
		if set == nil {
			set = map[string]string{}
		}
		set[name] = string(value)
		return nil
	})
	return set, err
}

// digestOf reads the digest of a file or piece, nil when it is empty.
func (t *toc) digestOf() ([]byte, error) {
	if isNull, err := t.null(); isNull || err != nil {
		return nil, err
	}
	text, err := t.scanner.string(maxName)
	if err != nil || len(text) == 0 {
		return nil, err
	}
	return sha256Of(text)
}

// sha256Of reads a digest as manifests have them. Others than sha256 do not occur in these documents.
func sha256Of(text []byte) ([]byte, error) {
	encoded, ok := bytes.CutPrefix(text, []byte("sha256:"))
	if !ok {
		return nil, unsupported("digest %.100q is not by sha256", text)
	}
	sum := make([]byte, hex.DecodedLen(len(encoded)))
	if _, err := hex.Decode(sum, encoded); err != nil || len(sum) != digestSize || bytes.ContainsAny(encoded, "ABCDEF") {
		return nil, invalid("digest %.100q", text)
	}
	return sum, nil
}

// landmark notes up to where the blob's maker wants it to be fetched first (estargz.md, "Prefetch Landmark").
func (t *toc) landmark() {
	if e := &t.entry; t.x.kind == EStargz && e.path == ".prefetch.landmark" && e.offset > 0 && e.offset < t.payload {
		t.x.prefetch = e.offset
	}
}

// fileOf translates the entry.
func (t *toc) fileOf() (file, error) {
	e := &t.entry
	f := file{path: e.path, target: e.target, xattrs: e.xattrs}
	if e.uid < 0 || e.gid < 0 || e.uid >= math.MaxUint32 || e.gid >= math.MaxUint32 {
		return f, invalid("owner %d:%d of %.300q", e.uid, e.gid, e.path)
	}
	f.node = node{mode: uint32(e.mode & 0o7777), uid: uint32(e.uid), gid: uint32(e.gid)}
	if !e.modTime.IsZero() {
		f.node.sec, f.node.nsec = e.modTime.Unix(), uint32(e.modTime.Nanosecond())
	}
	var err error
	switch e.kind {
	case "dir":
		f.node.mode |= typeDir
	case "reg":
		f.node.mode |= typeReg
		f.node.size = e.size
	case "symlink":
		f.node.mode |= typeLink
	case "hardlink":
		f.hard = true
		err = relative(e.target)
	case "fifo":
		f.node.mode |= typeFIFO
	case "char":
		f.node.mode |= typeChar
		f.node.a, err = mknod(e.major, e.minor)
	case "block":
		f.node.mode |= typeBlock
		f.node.a, err = mknod(e.major, e.minor)
	default:
		err = invalid("unknown type %q of %.300q", e.kind, e.path)
	}
	return f, err
}

// chunk adds a further piece to the file before.
func (t *toc) chunk() error {
	if t.file == 0 {
		return invalid("a piece of %.300q without a file", t.entry.path)
	}
	if t.entry.path != t.path {
		return invalid("a piece of %.300q follows %.300q", t.entry.path, t.path)
	}
	return t.piece()
}

// piece adds the entry's bytes to the file: an extent and, unless they are zeros, a unit.
func (t *toc) piece() error {
	e, n := &t.entry, &t.x.nodes[t.file]
	size := e.chunkSize
	if size == 0 {
		size = n.size - e.chunkOffset // to the end, or to the next piece in zstd:chunked
	}
	switch {
	case e.chunkOffset != t.reached:
		return invalid("pieces of %.300q do not follow each other", e.path)
	case size <= 0 || size > n.size-t.reached:
		return invalid("a piece of %.300q has a size out of bounds", e.path)
	}
	if len(t.x.extents) >= t.limits.Units {
		return tooMuch("more than %d pieces", t.limits.Units)
	}
	x := extent{offset: e.chunkOffset, unit: zeroUnit}
	if !e.zeros {
		u, err := t.addUnit(size)
		if err != nil {
			return err
		}
		x.unit = u
	}
	t.x.extents = append(roomFor(t.x.extents, t.limits.Units), x)
	t.reached += size
	return nil
}

func (t *toc) addUnit(size int64) (uint32, error) {
	e := &t.entry
	sum := e.chunkDigest
	if sum == nil && e.digest != nil && size == t.x.nodes[t.file].size {
		sum = e.digest
	}
	switch {
	case sum == nil:
		return 0, unsupported("a piece of %.300q has no digest", e.path)
	case e.offset < 0 || e.offset >= t.payload || e.end < 0 || e.end > t.payload:
		return 0, invalid("%.300q is outside of the blob", e.path)
	case size > t.limits.UnitSize || e.inner < 0 || e.inner > t.limits.UnitSize:
		return 0, unsupported("a piece of %.300q has %d bytes at %d, more than %d", e.path, size, e.inner, t.limits.UnitSize)
	case len(t.x.units) >= t.limits.Units:
		return 0, tooMuch("more than %d units", t.limits.Units)
	}
	u := unit{offset: e.offset, size: uint32(size), digest: t.addDigest(sum)}
	if e.end > 0 {
		if e.end <= e.offset || e.end-e.offset > math.MaxUint32 {
			return 0, invalid("%.300q ends at %d, before it begins", e.path, e.end)
		}
		u.length = uint32(e.end - e.offset)
	}
	t.x.units = append(roomFor(t.x.units, t.limits.Units), u)
	t.x.skips = append(roomFor(t.x.skips, t.limits.Units), uint32(e.inner))
	t.inner = t.inner || e.inner > 0
	return uint32(len(t.x.units) - 1), nil
}

// endFile closes the file whose pieces were being read.
func (t *toc) endFile() error {
	if t.file == 0 {
		return nil
	}
	n := &t.x.nodes[t.file]
	n.b = uint32(len(t.x.extents)) - n.a
	if t.reached != n.size {
		return invalid("pieces of %.300q make %d of its %d bytes", t.path, t.reached, n.size)
	}
	if n.b == 1 && t.x.extents[n.a].unit != zeroUnit {
		// The digest of its only piece is checked, so the file's own must not say otherwise.
		sum := t.x.units[t.x.extents[n.a].unit].digest
		if n.digest == 0 {
			n.digest = sum
		}
		if !bytes.Equal(t.sumOf(sum), t.sumOf(n.digest)) {
			return invalid("%.300q has another digest than its only piece", t.path)
		}
	}
	t.file, t.path = 0, ""
	return nil
}

// lengths gives the units that have none everything up to the next one. What else is there in between is little: the next
// file's header.
func (t *toc) lengths() error {
	if !t.inner {
		t.x.skips = nil
	}
	units := t.x.units
	offsets := make([]int64, len(units))
	for i := range units {
		offsets[i] = units[i].offset
	}
	slices.Sort(offsets)
	for i := range units {
		if units[i].length > 0 {
			continue
		}
		next, _ := slices.BinarySearch(offsets, units[i].offset+1)
		end := t.payload
		if next < len(offsets) {
			end = offsets[next]
		}
		if end-units[i].offset > math.MaxUint32 {
			return unsupported("a unit of %d bytes", end-units[i].offset)
		}
		units[i].length = uint32(end - units[i].offset)
	}
	return nil
}

// hashed reads src to its end: its digest, how many bytes, and how many objects it can have at most.
func hashed(src io.Reader, limit int64) (digest.Digest, int, error) {
	h := sha256.New()
	c := counter{Hash: h}
	n, err := io.Copy(&c, io.LimitReader(src, limit+1))
	if err != nil {
		return "", 0, err
	}
	if n > limit {
		return "", 0, tooMuch("a table of contents of more than %d bytes", limit)
	}
	return digest.NewDigest(digest.SHA256, h), c.braces, nil
}

// counter counts opening braces of what it hashes.
type counter struct {
	hash.Hash
	braces int
}

func (c *counter) Write(p []byte) (int, error) {
	c.braces += bytes.Count(p, []byte{'{'})
	return c.Hash.Write(p)
}
