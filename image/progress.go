package image

import (
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// every is how often a part that moves is reported.
const every = 100 * time.Millisecond

// reporter calls a ProgressFunc from one goroutine at a time.
type reporter struct {
	mu sync.Mutex
	fn ProgressFunc // nil for nobody listens
}

// part reports on one blob. Its methods are safe for concurrent use.
type part struct {
	to   *reporter
	last time.Time
	now  Progress
}

func (r *reporter) part(name string, parent digest.Digest, desc ocispec.Descriptor) *part {
	return &part{to: r, now: Progress{Name: name, Parent: parent, Desc: desc}}
}

// enter reports a new state at once; the offset is the whole in the states that end.
func (p *part) enter(s State) {
	p.to.mu.Lock()
	defer p.to.mu.Unlock()
	p.now.State = s
	if s == Exists || s == Done {
		p.now.Offset = p.now.Desc.Size
	}
	p.emit()
}

// at reports an offset, unless the last report was a moment ago.
func (p *part) at(offset int64) {
	p.to.mu.Lock()
	defer p.to.mu.Unlock()
	p.now.Offset = offset
	if time.Since(p.last) >= every {
		p.emit()
	}
}

func (p *part) emit() {
	p.last = time.Now()
	if p.to.fn != nil {
		p.to.fn(p.now)
	}
}
