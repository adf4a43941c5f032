package image

import (
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// every is how often a part that moves is reported.
const every = 100 * time.Millisecond

// Reporter calls a ProgressFunc from one goroutine at a time.
type Reporter struct {
	mu sync.Mutex
	fn ProgressFunc
}

// NewReporter makes a reporter to fn, which is nil when nobody listens.
func NewReporter(fn ProgressFunc) *Reporter { return &Reporter{fn: fn} }

// Part reports on one blob. Its methods are safe for concurrent use.
type Part struct {
	to   *Reporter
	last time.Time
	now  Progress
}

// Part begins to report on a part of an image; the arguments are as in Progress. Nothing is said yet.
func (r *Reporter) Part(name string, parent digest.Digest, desc ocispec.Descriptor) *Part {
	return &Part{to: r, now: Progress{Name: name, Parent: parent, Desc: desc}}
}

// Enter reports a new state at once; the offset is the whole in the states that end.
func (p *Part) Enter(s State) {
	p.to.mu.Lock()
	defer p.to.mu.Unlock()
	p.now.State = s
	if s == Exists || s == Done {
		p.now.Offset = p.now.Desc.Size
	}
	p.emit()
}

// At reports an offset, unless the last report was a moment ago.
func (p *Part) At(offset int64) {
	p.to.mu.Lock()
	defer p.to.mu.Unlock()
	p.now.Offset = offset
	if time.Since(p.last) >= every {
		p.emit()
	}
}

func (p *Part) emit() {
	p.last = time.Now()
	if p.to.fn != nil {
		p.to.fn(p.now)
	}
}
