package convert

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc64"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// zstd:chunked (containers/storage, pkg/chunked): the archive in zstd frames, one for each piece of a file and of what is
// between files; then, in frames that decoders skip, the table of contents, tar-split's record of how to make the archive
// of the files, and a footer that tells where they are.

const (
	chunkedPrefix   = "io.github.containers.zstd-chunked."
	chunkedChecksum = chunkedPrefix + "manifest-checksum" // of the compressed table
	chunkedPosition = chunkedPrefix + "manifest-position" // offset:length:uncompressed length:type
	chunkedSplit    = chunkedPrefix + "tarsplit-position" // offset:length:uncompressed length
	chunkedType     = 1                                   // a table like eStargz's
	chunkedMagic    = "GNUlInUx"
)

type zstdChunked struct {
	encoder *zstd.Encoder // shared by all layers
	split   *tarSplit
}

// newEncoder is for any number of goroutines.
func newEncoder() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderCRC(false))
}

func newZstdChunked(encoder *zstd.Encoder) (*zstdChunked, error) {
	split, err := newTarSplit()
	return &zstdChunked{encoder, split}, err
}

func (z *zstdChunked) verbatim() bool                 { return true }
func (z *zstdChunked) headers(raw []byte)             { z.split.segment(raw) }
func (z *zstdChunked) opened(name string, size int64) { z.split.open(name, size) }
func (z *zstdChunked) content(p []byte)               { z.split.content(p) }
func (z *zstdChunked) pack(dst, raw []byte) []byte    { return z.encoder.EncodeAll(raw, dst) }

func (z *zstdChunked) tail(t *toc, offset, _ int64) (tail, error) {
	split, splitSize, err := z.split.finish()
	if err != nil {
		return tail{}, fmt.Errorf("cannot write the record of the archive: %w", err)
	}
	more := digest.FromBytes(split)
	if !t.tidy { // then table and record do not agree, which is checked by who uses both
		split, splitSize, more = nil, 0, ""
	}
	var text bytes.Buffer
	if err := t.write(&text, more); err != nil {
		return tail{}, err
	}
	table := z.pack(nil, text.Bytes())
	at := offset + skippableHeader
	annotations := map[string]string{
		chunkedChecksum: digest.FromBytes(table).String(),
		chunkedPosition: fmt.Sprintf("%d:%d:%d:%d", at, len(table), text.Len(), chunkedType),
	}
	blob := skippable(nil, table)
	splitAt := int64(0)
	if split != nil {
		splitAt = at + int64(len(table)) + skippableHeader
		annotations[chunkedSplit] = fmt.Sprintf("%d:%d:%d", splitAt, len(split), splitSize)
		blob = skippable(blob, split)
	}
	var footer []byte
	for _, word := range []int64{at, int64(len(table)), int64(text.Len()), chunkedType, splitAt, int64(len(split)), splitSize} {
		footer = binary.LittleEndian.AppendUint64(footer, uint64(word))
	}
	return tail{blob: skippable(blob, append(footer, chunkedMagic...)), annotations: annotations}, nil
}

const skippableHeader = 8

// skippable appends data in a frame that decoders skip (RFC 8878, 3.1.2).
func skippable(dst, data []byte) []byte {
	dst = append(dst, 0x50, 0x2a, 0x4d, 0x18)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(data)))
	return append(dst, data...)
}

// tarSplit writes what tar-split (github.com/vbatts/tar-split, tar/storage) keeps of an archive: its bytes but the files',
// and in their places name, size and checksum. containers/storage needs it to name a layer by its diff ID that it did not
// read in full.
type tarSplit struct {
	zw       *zstd.Encoder
	packed   bytes.Buffer
	size     int64
	err      error
	position int
	file     splitEntry
	sum      uint64
}

type splitEntry struct {
	Type     int    `json:"type"`
	Name     string `json:"name,omitempty"`
	Size     int64  `json:"size,omitempty"`
	Payload  []byte `json:"payload"`
	Position int    `json:"position"`
}

const (
	splitFile    = 1
	splitSegment = 2
)

var crcTable = crc64.MakeTable(crc64.ISO)

func newTarSplit() (*tarSplit, error) {
	s := &tarSplit{}
	var err error
	s.zw, err = zstd.NewWriter(&s.packed, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	return s, err
}

func (s *tarSplit) put(e splitEntry) {
	e.Position = s.position
	s.position++
	line, err := json.Marshal(e)
	if err == nil {
		line = append(line, '\n')
		_, err = s.zw.Write(line)
	}
	s.size += int64(len(line))
	if s.err == nil {
		s.err = err
	}
}

func (s *tarSplit) segment(raw []byte) {
	s.closeFile()
	s.put(splitEntry{Type: splitSegment, Payload: raw})
}

// open begins a file, which ends where the next segment comes.
func (s *tarSplit) open(name string, size int64) {
	s.file, s.sum = splitEntry{Type: splitFile, Name: name, Size: size}, 0
}

func (s *tarSplit) content(p []byte) { s.sum = crc64.Update(s.sum, crcTable, p) }

func (s *tarSplit) closeFile() {
	if s.file.Type == 0 {
		return
	}
	if s.file.Size > 0 {
		s.file.Payload = binary.BigEndian.AppendUint64(nil, s.sum)
	}
	s.put(s.file)
	s.file = splitEntry{}
}

func (s *tarSplit) finish() ([]byte, int64, error) {
	s.closeFile()
	if err := s.zw.Close(); err != nil && s.err == nil {
		s.err = err
	}
	return s.packed.Bytes(), s.size, s.err
}
