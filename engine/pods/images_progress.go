package pods

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	imagepkg "github.com/slipwayd/slipway/image"
)

// Pulling is an image on its way here.
type Pulling struct {
	Ref         string
	Begun       time.Time
	Done, Bytes int64 // so many bytes of what is known to be needed
	Waiting     int   // calls
}

func (p Pulling) String() string {
	return fmt.Sprintf("%d of %d bytes are here after %s", p.Done, p.Bytes, time.Since(p.Begun).Round(time.Second))
}

// Pulls lists the images that are being pulled, the oldest first.
func (m *Manager) Pulls() []Pulling {
	m.pulling.mu.Lock()
	defer m.pulling.mu.Unlock()
	var list []Pulling
	for _, p := range m.pulling.all {
		v := p.progress.view()
		v.Waiting = p.waiting
		list = append(list, v)
	}
	slices.SortFunc(list, func(a, b Pulling) int { return a.Begun.Compare(b.Begun) })
	return list
}

// progress is how far a pull is.
type progress struct {
	ref   string
	begun time.Time

	mu    sync.Mutex
	parts map[digest.Digest]imagepkg.Progress
}

func (p *progress) note(part imagepkg.Progress) {
	if part.Desc.Digest == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.parts == nil {
		p.parts = map[digest.Digest]imagepkg.Progress{}
	}
	p.parts[part.Desc.Digest] = part
}

func (p *progress) view() Pulling {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := Pulling{Ref: p.ref, Begun: p.begun}
	for _, part := range p.parts {
		v.Bytes += part.Desc.Size
		switch part.State {
		case imagepkg.Exists, imagepkg.Done, imagepkg.Served:
			v.Done += part.Desc.Size
		default:
			v.Done += min(part.Offset, part.Desc.Size)
		}
	}
	return v
}
