package convert

import (
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
)

// every is how often a layer that moves is reported.
const every = 100 * time.Millisecond

// reporter calls a ProgressFunc from one goroutine at a time.
type reporter struct {
	mu sync.Mutex
	fn image.ProgressFunc // nil for nobody listens
}

// part reports on one layer.
type part struct {
	to   *reporter
	last time.Time
	now  image.Progress
}

func (r *reporter) part(d ocispec.Descriptor) *part {
	return &part{to: r, now: image.Progress{Name: "layer-" + d.Digest.String(), Desc: d, State: Converting}}
}

func (p *part) enter(s image.State) {
	p.to.mu.Lock()
	defer p.to.mu.Unlock()
	p.now.State = s
	if s != Converting {
		p.now.Offset = p.now.Desc.Size
	}
	p.emit()
}

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
