package index

import (
	"encoding/binary"
	"math"
	"strings"
	"time"
)

// Fields of the tables in a zTOC, by their place in soci-snapshotter's ztoc.fbs and zinfo.fbs.
const (
	ztocVersion, ztocCompressed, ztocUncompressed, ztocTOC, ztocInfo = 0, 2, 3, 4, 5

	infoAlgorithm, infoDigests, infoCheckpoints = 0, 2, 3

	fileName, fileType, fileOffset, fileSize, fileLink, fileBits, fileUID, fileGID = 0, 1, 2, 3, 4, 5, 6, 7
	fileTime, fileMajor, fileMinor, fileXattrs                                     = 10, 11, 12, 13

	tarSpan = 1
)

const (
	ztocGzip  = 1
	ztocPlain = 2

	packedCheckpoint = 8 + 8 + 1 + windowSize
	ztocHeader       = 4 + 8
	firstBlock       = 10 // after the header of a gzip file without a name, which is where version 1 assumed the first span
)

// FromZTOC parses a zTOC of SOCI's index, version 1 or 2; they are the same. blob is the size of the layer it is for.
//
// It is the caller's business whether to believe it. Its digests are of compressed bytes, but the windows with which those
// are decoded, and the list of files, are its own: whoever wrote it says what the layer's files are. Believe what is signed
// by somebody who may say so, or check layer and diff ID in the end.
func FromZTOC(data []byte, blob int64, limits Limits) (*Index, error) {
	limits = limits.withDefaults()
	if int64(len(data)) > limits.Bytes {
		return nil, tooMuch("a zTOC of %d bytes", len(data))
	}
	f := &flat{data: data}
	root := f.root()
	version, size := string(root.bytes(ztocVersion)), root.int64(ztocCompressed)
	if f.err != nil {
		return nil, f.err
	}
	if version != "0.9" {
		return nil, unsupported("zTOC of version %.20q", version)
	}
	if size != blob {
		return nil, invalid("zTOC of a layer of %d bytes, not %d", size, blob)
	}
	z := &ztoc{builder: newBuilder(SOCI, blob, limits), flat: f}
	if err := z.spans(root); err != nil {
		return nil, err
	}
	toc := root.child(ztocTOC)
	first, n := toc.vector(0, limits.Nodes)
	z.grow(n)
	for i := range n {
		if err := z.file(f.table(f.follow(first + 4*i))); err != nil {
			return nil, err
		}
	}
	if f.err != nil {
		return nil, f.err
	}
	return z.finish()
}

type ztoc struct {
	*builder
	*flat
}

// spans makes the units.
func (z *ztoc) spans(root flatTable) error {
	info := root.child(ztocInfo)
	packed, end := info.bytes(infoCheckpoints), root.int64(ztocUncompressed)
	var err error
	var at []boundary
	switch algorithm := info.byteField(infoAlgorithm, ztocGzip); algorithm {
	case ztocGzip:
		z.x.codec = codecGzip
		at, err = gzipBoundaries(packed)
	case ztocPlain:
		z.x.codec = codecNone
		if end != z.x.blob {
			return invalid("zTOC of %d bytes that are %d uncompressed", z.x.blob, end)
		}
		at, err = tarBoundaries(packed, end, z.limits.Units)
	default:
		err = unsupported("zTOC of compression %d", algorithm)
	}
	if err != nil {
		return err
	}
	first, n := info.vector(infoDigests, z.limits.Units)
	if z.err != nil {
		return z.err
	}
	if n != len(at) || n == 0 {
		return invalid("zTOC with %d digests of %d spans", n, len(at))
	}
	at = append(at, boundary{in: z.x.blob, out: max(end, at[n-1].out+1)})
	for i := range n {
		sum, err := sha256Of(z.textAt(z.follow(first + 4*i)))
		if err == nil {
			err = z.span(at[i], at[i+1], end, sum)
		}
		if err != nil {
			return err
		}
	}
	return z.err
}

// span adds the unit from one boundary to the next, as far as there is something of the archive in it.
func (z *ztoc) span(from, to boundary, archive int64, sum []byte) error {
	end := to.in
	if to.bit > 0 {
		end++
	}
	length, size := end-from.in, min(to.out, archive)-from.out
	switch {
	case from.in < 0 || to.in < from.in || to.in > z.x.blob || from.out < 0 || to.out <= from.out:
		return invalid("zTOC with spans that do not follow each other")
	case size > z.limits.UnitSize || length > math.MaxUint32:
		return unsupported("zTOC with a span of %d bytes", size)
	}
	if size <= 0 {
		return nil // padding after the archive
	}
	u := unit{offset: from.in, length: uint32(length), size: uint32(size), digest: z.addDigest(sum) | rawFlag}
	if from.resume {
		z.x.states = append(z.x.states, checkpoint{bit: from.bit, window: from.window})
		u.state = uint32(len(z.x.states))
	}
	z.x.units = append(z.x.units, u)
	return nil
}

// gzipBoundaries reads the checkpoints (soci-snapshotter's gzip_zinfo.h): their number, the size of spans, then of each the
// compressed and uncompressed offset, the number of its bits that are in the byte before, and the window. Version 1 left out
// the first.
func gzipBoundaries(p []byte) ([]boundary, error) {
	if len(p) < ztocHeader {
		return nil, invalid("zTOC without checkpoints")
	}
	n := int64(binary.LittleEndian.Uint32(p))
	p = p[ztocHeader:]
	var out []boundary
	switch int64(len(p)) {
	case n * packedCheckpoint:
	case (n - 1) * packedCheckpoint:
		out = append(out, boundary{in: firstBlock, resume: true})
	default:
		return nil, invalid("zTOC with %d bytes of %d checkpoints", len(p), n)
	}
	for ; len(p) > 0; p = p[packedCheckpoint:] {
		b := boundary{in: int64(binary.LittleEndian.Uint64(p)), out: int64(binary.LittleEndian.Uint64(p[8:])), resume: true}
		if bits := p[16]; bits > 7 {
			return nil, invalid("zTOC with a checkpoint at bit %d", bits)
		} else if bits > 0 {
			b.in, b.bit = b.in-1, 8-bits
		}
		if b.out < 0 || b.in < 0 {
			return nil, invalid("zTOC with a checkpoint at %d", b.in)
		}
		window := p[17:packedCheckpoint]
		b.window = pack(window[windowSize-min(b.out, windowSize):])
		out = append(out, b)
	}
	if len(out) == 0 || out[0].out != 0 {
		return nil, invalid("zTOC without a checkpoint at the start")
	}
	return out, nil
}

// tarBoundaries are those of a layer that is not compressed.
func tarBoundaries(p []byte, end int64, limit int) ([]boundary, error) {
	f := &flat{data: p}
	size := f.root().int64(tarSpan)
	if f.err != nil {
		return nil, f.err
	}
	if size < 512 || end/size >= int64(limit) {
		return nil, invalid("zTOC with spans of %d bytes", size)
	}
	var out []boundary
	for at := int64(0); at < end; at += size {
		out = append(out, boundary{in: at, out: at})
	}
	return out, nil
}

// file puts one entry of the archive into the tree.
func (z *ztoc) file(t flatTable) error {
	mode, size := t.int64(fileBits), t.int64(fileSize)
	f := file{path: string(t.bytes(fileName)), target: string(t.bytes(fileLink))}
	f.node = node{mode: uint32(mode & 0o7777), uid: t.uint32Field(fileUID), gid: t.uint32Field(fileGID)}
	if text := string(t.bytes(fileTime)); text != "" {
		when, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return invalid("time %.100q", text)
		}
		f.node.sec, f.node.nsec = when.Unix(), uint32(when.Nanosecond())
	}
	var err error
	switch kind := string(t.bytes(fileType)); kind {
	case "dir":
		f.node.mode |= typeDir
	case "reg":
		f.node.mode |= typeReg
		place := t.int64(fileOffset)
		f.node.size, f.node.a, f.node.b = size, uint32(place), uint32(place>>32)
	case "symlink":
		f.node.mode |= typeLink
	case "hardlink":
		f.hard = true
	case "fifo":
		f.node.mode |= typeFIFO
	case "char":
		f.node.mode |= typeChar
		f.node.a, err = mknod(t.int64(fileMajor), t.int64(fileMinor))
	case "block":
		f.node.mode |= typeBlock
		f.node.a, err = mknod(t.int64(fileMajor), t.int64(fileMinor))
	default:
		err = invalid("unknown type %.100q of %.300q", kind, f.path)
	}
	if err == nil {
		err = relative(f.path)
	}
	if err == nil {
		f.xattrs, err = z.paxXattrs(t)
	}
	if z.err != nil {
		err = z.err
	}
	if err != nil {
		return err
	}
	_, _, err = z.place(&f, true)
	return err
}

// paxXattrs finds the extended attributes among the archive's PAX records.
func (z *ztoc) paxXattrs(t flatTable) (map[string]string, error) {
	first, n := t.vector(fileXattrs, 2*maxXattrs)
	var set map[string]string
	for i := range n {
		x := z.flat.table(z.follow(first + 4*i))
		key := string(x.bytes(0))
		if strings.HasPrefix(key, "GNU.sparse.") {
			return nil, unsupported("a sparse file")
		}
		name, ok := strings.CutPrefix(key, xattrKey)
		if !ok {
			continue
		}
		if set == nil {
			set = map[string]string{}
		}
		set[name] = string(x.bytes(1))
	}
	return set, z.err
}
