package index

import (
	"math"

	"github.com/opencontainers/go-digest"
)

// recording is the index of a Recorder while it grows: the tree, and the spans.
type recording struct {
	*tarWalk
	out   int64
	begun boundary
	queue []boundary // still to come
	err   error
}

func newRecording(c codec, limits Limits) *recording {
	b := newBuilder(Spans, 0, limits)
	b.x.codec = c
	r := &recording{tarWalk: newTarWalk(b)}
	r.x.chain.add(r.whole)
	return r
}

func (r *recording) add(data []byte, seen []boundary) {
	r.queue = append(r.queue, seen...)
	for len(data) > 0 {
		n := len(data)
		for len(r.queue) > 0 && r.queue[0].out == r.out {
			r.endSpan(r.queue[0])
			r.queue = r.queue[1:]
		}
		if len(r.queue) > 0 {
			n = int(min(int64(n), r.queue[0].out-r.out))
		}
		r.tarWalk.write(data[:n])
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
		u.length, u.size = uint32(length), uint32(size)
		r.x.chain.add(r.whole)
		if r.begun.resume {
			r.x.states = append(r.x.states, checkpoint{bit: r.begun.bit, window: r.begun.window})
			u.state = uint32(len(r.x.states))
		}
		r.x.units = append(r.x.units, u)
	}
	if size > 0 {
		r.begun = next
	}
}

func (r *recording) finish(blob int64) (*Index, error) {
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
	r.x.blob, r.x.diff = blob, r.diffID()
	return r.builder.finish()
}

func (r *recording) diffID() digest.Digest { return digest.NewDigest(digest.SHA256, r.whole) }
