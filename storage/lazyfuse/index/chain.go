package index

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"hash"

	"github.com/opencontainers/go-digest"
)

// A chain checks the spans of a recorded layer at no cost to recording: it is the state of the one SHA-256 over the whole
// uncompressed layer, which gives the diff ID, at the beginning of each span and at the end. A span is right if it leads from
// its state to the next: another one of that length that did would be a collision of SHA-256.
type chain []byte

// chainState is how long a state is that crypto/sha256 marshals: magic, state, block, length. Later versions of Go read it.
const chainState = 4 + 32 + 64 + 8

// add notes the state of h.
func (c *chain) add(h hash.Hash) {
	state, err := h.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil || len(state) != chainState {
		panic("crypto/sha256 marshals its state in another form")
	}
	*c = append(*c, state...)
}

// at answers a hash in state number i.
func (c chain) at(i int) (hash.Hash, error) {
	h := sha256.New()
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(c[i*chainState : (i+1)*chainState]); err != nil {
		return nil, invalid("the index has a damaged state")
	}
	return h, nil
}

// links says whether data leads from state i to the next.
func (c chain) links(i int, data []byte) bool {
	from, err := c.at(i)
	if err != nil {
		return false
	}
	to, err := c.at(i + 1)
	if err != nil {
		return false
	}
	from.Write(data)
	return bytes.Equal(from.Sum(nil), to.Sum(nil))
}

// check verifies that there are n states, and that they lead from nothing to diff.
func (c chain) check(n int, diff digest.Digest) error {
	if len(c) != n*chainState {
		return invalid("the index has %d bytes of %d states", len(c), n)
	}
	for i := range n {
		h, err := c.at(i)
		if err != nil {
			return err
		}
		if i == 0 && !bytes.Equal(h.Sum(nil), sha256.New().Sum(nil)) || i == n-1 && digest.NewDigest(digest.SHA256, h) != diff {
			return invalid("the index has states of another layer")
		}
	}
	return nil
}
