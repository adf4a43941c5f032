package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"

	"github.com/opencontainers/go-digest"
)

// Key names a content. Equal keys must mean equal bytes whoever wrote them, also when one of two images is hostile: a table
// of contents may claim any file digest next to chunks of its own. So there is one kind of key for each reason to believe it.
type Key [sha256.Size]byte

func (k Key) String() string { return hex.EncodeToString(k[:]) }

// FileKey is for a file whose bytes are compared with dgst as a whole before any are written: one that is a single chunk
// with that digest, or one that this host has seen whole.
func FileKey(dgst digest.Digest, size int64) Key {
	return newKey("file", size).text(dgst.String()).sum()
}

// Chunk is a piece of a file that is verified by itself.
type Chunk struct {
	Size   int64
	Digest digest.Digest
}

// ChunksKey is for a file each of whose chunks is compared with its digest before it is written. The file's own digest is no
// part of it, since nobody can check that one from a part. A single chunk gives the same key as FileKey.
func ChunksKey(chunks []Chunk) Key {
	var size int64
	for _, c := range chunks {
		size += c.Size
	}
	if len(chunks) == 1 {
		return FileKey(chunks[0].Digest, size)
	}
	k := newKey("chunks", size)
	for _, c := range chunks {
		k.number(c.Size).text(c.Digest.String())
	}
	return k.sum()
}

// NodeKey is for a file that has no digests of its own: node number node of the index document with digest index.
func NodeKey(index digest.Digest, node int, size int64) Key {
	return newKey("node", size).text(index.String()).number(int64(node)).sum()
}

type keyHash struct{ hash.Hash }

func newKey(kind string, size int64) keyHash { return keyHash{sha256.New()}.text(kind).number(size) }

func (k keyHash) number(n int64) keyHash {
	_, _ = k.Write(binary.BigEndian.AppendUint64(nil, uint64(n))) // a hash never fails
	return k
}

func (k keyHash) text(s string) keyHash {
	k.number(int64(len(s)))
	_, _ = k.Write([]byte(s))
	return k
}

func (k keyHash) sum() (key Key) {
	k.Sum(key[:0])
	return key
}
