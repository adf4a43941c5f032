package index

import (
	"crypto/sha256"
	"hash"
	"math"

	"github.com/opencontainers/go-digest"
)

// recording is the index of a Recorder while it grows: the tree, and the spans.
type recording struct {
	*tarWalk
	out   int64
	begun boundary
	queue []boundary // still to come
	sum   hash.Hash
	err   error
}

func newRecording(c codec, limits Limits) *recording {
	b := newBuilder(Spans, 0, limits)
	b.x.codec = c
	return &recording{tarWalk: newTarWalk(b), sum: sha256.New()}
}

func (r *recording) add(b batch) {
	if r.err != nil || r.tarWalk.err != nil {
		return
	}
	r.tarWalk.write(b.data)
	r.queue = append(r.queue, b.seen...)
	for data := b.data; len(data) > 0; {
		n := len(data)
		for len(r.queue) > 0 && r.queue[0].out == r.out {
			r.endSpan(r.queue[0])
			r.queue = r.queue[1:]
		}
		if len(r.queue) > 0 {
			n = int(min(int64(n), r.queue[0].out-r.out))
		}
		r.sum.Write(data[:n])
		data, r.out = data[n:], r.out+int64(n)
	}
}

// endSpan adds the span that ends where next begins.
func (r *recording) endSpan(next boundary) {
	end := next.in
	if next.bit > 0 {
		end++
	}
	u, size := unit{offset: r.begun.in}, next.out-r.begun.out
	switch length := end - r.begun.in; {
	case r.err != nil || size == 0:
	case size > r.limits.UnitSize:
		r.err = unsupported("a span of %d bytes: the layer cannot be entered more often", size)
	case length > math.MaxUint32 || len(r.x.units) >= r.limits.Units:
		r.err = tooMuch("more than %d units", r.limits.Units)
	default:
		u.length, u.size, u.digest = uint32(length), uint32(size), r.addDigest(r.sum.Sum(nil))
		if r.begun.resume {
			r.x.states = append(r.x.states, checkpoint{bit: r.begun.bit, window: r.begun.window})
			u.state = uint32(len(r.x.states))
		}
		r.x.units = append(r.x.units, u)
	}
	r.sum.Reset()
	if size > 0 {
		r.begun = next
	}
}

func (r *recording) finish(blob int64, diff digest.Digest) (*Index, error) {
	r.endSpan(boundary{in: blob, out: r.out})
	if r.err == nil {
		r.err = r.tarWalk.err
	}
	if r.err == nil && (r.left > 0 || len(r.headers) > 0 && !r.ended) {
		r.err = invalid("the archive ends in the middle of an entry")
	}
	if r.err != nil {
		return nil, r.err
	}
	r.x.blob, r.x.diff = blob, diff
	return r.builder.finish()
}
