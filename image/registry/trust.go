package registry

import (
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/image/hosts"
)

// trust remembers which hosts sent bytes of a blob, and which sent wrong ones. With one host there is nothing to choose, and
// nothing is remembered.
type trust struct {
	mu   sync.Mutex
	sent map[digest.Digest]map[*endpoint]bool
	bad  map[digest.Digest]map[*endpoint]bool
}

func (t *trust) note(d digest.Digest, e *endpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sent[d] == nil {
		if t.sent == nil {
			t.sent = map[digest.Digest]map[*endpoint]bool{}
		}
		t.sent[d] = map[*endpoint]bool{}
	}
	t.sent[d][e] = true
}

func (t *trust) isBad(d digest.Digest, e *endpoint) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bad[d][e]
}

// Distrust says that the bytes fetched of blob d have another digest. The hosts that sent any of them are not asked for it
// again by this Remote. False when no host is left.
func (r *Remote) Distrust(d digest.Digest) bool {
	if r.trust == nil {
		return false
	}
	t := r.trust
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.sent[d]) == 0 {
		return false
	}
	if t.bad == nil {
		t.bad = map[digest.Digest]map[*endpoint]bool{}
	}
	if t.bad[d] == nil {
		t.bad[d] = map[*endpoint]bool{}
	}
	for e := range t.sent[d] {
		t.bad[d][e] = true
	}
	delete(t.sent, d)
	for _, e := range r.endpoints {
		if e.Has(hosts.Pull) && !t.bad[d][e] {
			return true
		}
	}
	return false
}

// Distrusted reports whether some host is not asked for blob d any more.
func (r *Remote) Distrusted(d digest.Digest) bool {
	if r.trust == nil {
		return false
	}
	r.trust.mu.Lock()
	defer r.trust.mu.Unlock()
	return len(r.trust.bad[d]) > 0
}

// Mirrored reports whether there is more than one host to fetch from.
func (r *Remote) Mirrored() bool { return r.trust != nil }
