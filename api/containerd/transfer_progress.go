package containerd

import (
	"fmt"
	"sync"
	"time"

	transfertypes "github.com/containerd/containerd/api/types/transfer"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/metadata"
)

const (
	progressEvery = 100 * time.Millisecond // between batches
	progressFlush = 5 * time.Second        // for a client that does not read its last messages
)

// progressStream tells a client how its transfer goes. A client that reads slowly does not slow the transfer down: for each
// name only the newest message waits to be sent. The zero stream (no client asked) discards all.
type progressStream struct {
	s    *stream
	wake chan struct{}
	done chan struct{} // closed when the sender has ended

	mu      sync.Mutex
	ended   bool
	queue   []*transfertypes.Progress
	pending map[string]int           // where in the queue the message of a name is
	refs    map[digest.Digest]string // names of the parts seen, for their children
	root    string                   // the client's name for the whole image
	whole   string                   // package image's name for it
}

func (s *transferServer) openProgress(sc engine.Scope, id string) (*progressStream, error) {
	p := &progressStream{pending: map[string]int{}, refs: map[digest.Digest]string{}}
	if id == "" {
		return p, nil
	}
	stream, err := s.streams.claim(sc.Namespace, id)
	if err != nil {
		return nil, err
	}
	p.s, p.wake, p.done = stream, make(chan struct{}, 1), make(chan struct{})
	go p.run()
	return p, nil
}

// status sets the line that says what the transfer as a whole does.
func (p *progressStream) status(format string, args ...any) {
	p.put(&transfertypes.Progress{Event: fmt.Sprintf(format, args...)})
}

// rename says which name stands for the whole image: the one that the client gave.
func (p *progressStream) rename(name string) {
	p.mu.Lock()
	p.root = name
	p.mu.Unlock()
}

// completed reports the records that were written, and last that all is done: news that takes no place of an older one in
// the queue, but comes after everything.
func (p *progressStream) completed(images []metadata.Image, format string, args ...any) {
	p.mu.Lock()
	clear(p.pending)
	p.mu.Unlock()
	for _, img := range images {
		p.put(&transfertypes.Progress{Event: "saved", Name: img.Name, Desc: descriptorToWire(img.Target)})
	}
	p.status(format, args...)
}

// progressEvents are the words that clients (ctr, nerdctl) know.
var progressEvents = map[image.State]string{
	image.Resolving:   "resolving",
	image.Waiting:     "waiting",
	image.Downloading: "downloading",
	image.Unpacking:   "extracting",
	image.Uploading:   "uploading",
	image.Served:      "complete", // all that the client waits for
	image.Exists:      "already exists",
	image.Done:        "complete",
}

// part is the image.ProgressFunc. The part that is the whole image goes by the name that the client gave it.
func (p *progressStream) part(part image.Progress) {
	msg := &transfertypes.Progress{Event: progressEvents[part.State], Name: part.Name, Progress: part.Offset, Total: part.Desc.Size}
	p.mu.Lock()
	if part.State == image.Resolving {
		p.whole = part.Name
	}
	if part.Desc.Digest != "" {
		msg.Desc = descriptorToWire(part.Desc)
		if part.Name != p.whole {
			p.refs[part.Desc.Digest] = part.Name
		}
	}
	parent, ok := p.refs[part.Parent]
	switch {
	case part.Name == p.whole && p.root != "":
		msg.Name = p.root
		if part.State == image.Downloading {
			msg.Event, msg.Progress, msg.Total = "fetching image content", 0, 0
		}
	case part.Name == p.root: // ctr does not survive a part that is its own parent
	case part.Parent != "" && ok:
		msg.Parents = []string{parent}
	case p.root != "":
		msg.Parents = []string{p.root}
	}
	p.mu.Unlock()
	p.put(msg)
}

func (p *progressStream) put(msg *transfertypes.Progress) {
	if p.s == nil {
		return
	}
	p.mu.Lock()
	if at, ok := p.pending[msg.Name]; ok {
		p.queue[at] = msg
	} else {
		p.pending[msg.Name] = len(p.queue)
		p.queue = append(p.queue, msg)
	}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// take empties the queue, in the order in which the names came up: parents before their children.
func (p *progressStream) take() (batch []*transfertypes.Progress, ended bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	batch, p.queue = p.queue, nil
	clear(p.pending)
	return batch, p.ended
}

// run sends batches until close has been called and nothing is left, or the client is gone.
func (p *progressStream) run() {
	defer close(p.done)
	pause := time.NewTicker(progressEvery)
	defer pause.Stop()
	for range p.wake {
		batch, ended := p.take()
		for _, msg := range batch {
			if err := p.s.send(msg); err != nil {
				return
			}
		}
		if ended {
			return
		}
		<-pause.C
	}
}

// close sends what is left and ends the stream.
func (p *progressStream) close() {
	if p.s == nil {
		return
	}
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
	limit := time.NewTimer(progressFlush)
	defer limit.Stop()
	select {
	case <-p.done:
	case <-limit.C:
	}
	p.s.close()
	<-p.done
}
