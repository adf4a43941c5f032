package index

import (
	"errors"
	"maps"
	"sync"
)

// Stream is the kind of a layer of which nothing is known before its blob passes. No document has it.
const Stream Kind = "stream"

// Empty is the index of a blob of which only the length is known: an implied root and no units.
func Empty(blob int64) (*Index, error) {
	b := newBuilder(Stream, blob, Limits{})
	b.x.codec = codecNone
	return b.finish()
}

// ErrTakenBack is how a Growing ends whose layer says of a directory that was looked up that it hides what lies below, after all.
var ErrTakenBack = errors.New("the layer makes a directory opaque that was used already")

// Growing is the tree of a layer whose uncompressed bytes are passing, as far as they have told it for certain: only names that are
// there and that nothing but a second entry of the same name can take away. It is silent on names that are not there yet, on whiteouts,
// which another entry may replace, on directories that are not described, and on a directory as long as its opaque marker may be the
// next entry. Numbers of nodes are the same each time that the same bytes pass. It is safe for concurrent use by one writer and any
// readers.
type Growing struct {
	mu   sync.RWMutex
	walk *tarWalk
}

// NewGrowing makes a tree that has only its root, which looks like that of from.
func NewGrowing(from *Index, limits Limits) *Growing {
	b := newBuilder(Stream, from.blob, limits)
	b.given = map[uint32]struct{}{}
	b.x.nodes[0] = from.nodes[0]
	b.x.xattrs = append(b.x.xattrs, from.xattrs...)
	return &Growing{walk: newTarWalk(b)}
}

// Write takes the next bytes of the uncompressed layer. What cannot be part of a tree ends its growth, and Err tells.
func (g *Growing) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.walk.write(p)
	return len(p), nil
}

// Err is why the tree has stopped growing: ErrTakenBack, or that the rest of the layer cannot be told as it passes.
func (g *Growing) Err() error {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.walk.err
}

// Begun says whether the layer's first entry has passed, which is the root's if the layer describes that.
func (g *Growing) Begun() bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.walk.placed > 0 || g.walk.ended || g.walk.err != nil
}

// Len answers how many nodes there are by now. There are never fewer.
func (g *Growing) Len() int {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return len(g.walk.x.nodes)
}

// Node answers node i, which must be below Len. Links to a file are not counted, since more may come.
func (g *Growing) Node(i int) Node {
	g.mu.RLock()
	defer g.mu.RUnlock()
	n := &g.walk.x.nodes[i]
	out := g.walk.x.attributes(n)
	if n.mode&typeMask == typeLink {
		out.Link = string(g.walk.text[n.a : n.a+n.b])
	}
	if n.mode&opaqueFlag != 0 {
		out.Xattrs = maps.Clone(out.Xattrs)
		if out.Xattrs == nil {
			out.Xattrs = map[string]string{}
		}
		out.Xattrs[opaqueXattr] = "y"
	}
	return out
}

// Place answers where in the uncompressed layer the bytes of regular file i begin.
func (g *Growing) Place(i int) int64 {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.walk.x.nodes[i].place()
}

// Lookup finds a name of which it is certain that it is there. False says nothing.
func (g *Growing) Lookup(dir int, name string) (int, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	number := g.walk.lookup(uint32(dir), name)
	if number < 0 {
		return 0, false
	}
	at := g.walk.names[number].node
	n := &g.walk.x.nodes[at]
	if n.whiteout() || n.mode&impliedFlag != 0 || n.dir() && at == g.walk.fresh {
		return 0, false
	}
	if n.dir() {
		g.walk.given[at] = struct{}{}
	}
	return int(at), true
}

// Number answers what number a name has, whatever it is, also when Lookup is silent on it.
func (g *Growing) Number(dir int, name string) (int, bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	number := g.walk.lookup(uint32(dir), name)
	if number < 0 {
		return 0, false
	}
	return int(g.walk.names[number].node), true
}
