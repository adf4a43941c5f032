package index

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math"

	"github.com/klauspost/compress/zstd"
)

// The form of an index on disk, version 1:
//
//	magic, 8 bytes; SHA-256 of all that follows, 32 bytes
//	length of the table and length when decompressed, uvarints; the table, a zstd frame
//	digests, 32 bytes each; windows, one after the other; of a recorded layer, the states of its chain
//
// The table is numbers as uvarints, zigzag where they may fall, and texts after their length. What repeats is told by its
// difference from the one before.
const magic = "slipidx\x01"

// MediaType of Marshal's answer where it is published.
const MediaType = "application/vnd.slipway.layer.index.v1"

var kinds = []Kind{EStargz, ZstdChunked, Spans, SOCI}

type writer struct{ bytes.Buffer }

func (w *writer) uint(v uint64) { w.Write(binary.AppendUvarint(w.AvailableBuffer(), v)) }

func (w *writer) int(v int64) { w.Write(binary.AppendVarint(w.AvailableBuffer(), v)) }

func (w *writer) string(s string) {
	w.uint(uint64(len(s)))
	w.WriteString(s)
}

// Marshal answers the index in Slipway's own form. Equal indexes give equal bytes; Parse reads them.
func (x *Index) Marshal() []byte {
	table := x.table()
	packed := packTable(table)
	var w writer
	w.uint(uint64(len(packed)))
	w.uint(uint64(len(table)))
	w.Write(packed)
	w.Write(x.digests)
	for i := range x.states {
		w.Write(x.states[i].window)
	}
	w.Write(x.chain)
	sum := sha256.Sum256(w.Bytes())
	return append(append(append(make([]byte, 0, len(magic)+len(sum)+w.Len()), magic...), sum[:]...), w.Bytes()...)
}

func packTable(table []byte) []byte {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithWindowSize(maxWindow), zstd.WithEncoderCRC(false))
	if err != nil {
		panic(err) // the options are constant
	}
	defer e.Close()
	return e.EncodeAll(table, nil)
}

func (x *Index) table() []byte {
	var w writer
	for i, k := range kinds {
		if k == x.kind {
			w.uint(uint64(i))
		}
	}
	w.uint(uint64(x.codec))
	w.uint(uint64(x.blob))
	w.uint(uint64(x.prefetch))
	w.string(x.diff.String())
	for _, n := range []int{len(x.digests) / digestSize, len(x.states), len(x.units), len(x.xattrs), len(x.nodes), len(x.entries)} {
		w.uint(uint64(n))
	}
	for i := range x.states {
		w.uint(uint64(x.states[i].bit))
		w.uint(uint64(len(x.states[i].window)))
	}
	x.writeUnits(&w)
	for _, set := range x.xattrs {
		w.WriteString(canonical(set))
	}
	x.writeNodes(&w)
	for i := range x.nodes {
		for _, e := range x.entriesOf(i) {
			w.string(x.name(&e))
			w.int(int64(e.node) - int64(i))
		}
	}
	return w.Bytes()
}

func (x *Index) writeUnits(w *writer) {
	end := int64(0)
	for i := range x.units {
		u := &x.units[i]
		w.int(u.offset - end)
		w.uint(uint64(u.length))
		w.uint(uint64(u.size))
		w.uint(uint64(u.digest))
		w.uint(uint64(u.state))
		if x.skips != nil {
			w.uint(uint64(x.skips[i]))
		} else {
			w.uint(0)
		}
		end = u.offset + int64(u.length)
	}
}

func (x *Index) writeNodes(w *writer) {
	before := node{}
	place, unit := int64(0), int64(0)
	for i := range x.nodes {
		n := &x.nodes[i]
		w.uint(uint64(n.mode))
		w.uint(uint64(n.uid))
		w.uint(uint64(n.gid))
		w.int(n.sec - before.sec)
		w.uint(uint64(n.nsec))
		w.uint(uint64(n.xattrs))
		before.sec = n.sec
		switch n.mode & typeMask {
		case typeDir:
			w.uint(uint64(n.b))
		case typeLink:
			w.string(x.text[n.a : n.a+n.b])
		case typeChar, typeBlock:
			w.uint(uint64(n.a))
		case typeReg:
			w.uint(uint64(n.size))
			w.int(int64(n.digest) - int64(before.digest))
			before.digest = n.digest
			if x.stream() {
				w.int(n.place() - place)
				place = n.place() + n.size
				continue
			}
			w.uint(uint64(n.b))
			for _, e := range x.extents[n.a : n.a+n.b] {
				w.uint(uint64(e.offset))
				if e.unit == zeroUnit {
					w.int(math.MaxInt64)
					continue
				}
				w.int(int64(e.unit) - unit)
				w.uint(uint64(e.from))
				unit = int64(e.unit)
			}
		}
	}
}

// IsMarshalled says whether data begins like what Marshal answers.
func IsMarshalled(data []byte) bool { return bytes.HasPrefix(data, []byte(magic)) }
