package server

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/slipwayd/slipway/storage/lazyfuse/server/control"
)

// A Detailer is a Layer that has something to say to whoever asks how it is. The answer is made into JSON.
type Detailer interface{ Detail() any }

const (
	maxTouches     = 8192 // files of a layer
	maxTouchRanges = 64   // of a file; what is read elsewhere then is as if all was read
)

// touches notes which files were opened, each once, and what was read of them. Every open passes the server, also of files that
// are read past it.
type touches struct {
	mu    sync.Mutex
	began time.Time
	at    map[int]int // place in list, by node
	list  []touch
	named int // how many of them have their paths
}

type touch struct {
	control.Touch
	node int
}

func newTouches() *touches { return &touches{began: time.Now(), at: map[int]int{}} }

func (t *touches) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.began, t.at, t.list, t.named = time.Now(), map[int]int{}, nil, 0
}

// opened notes an open; whole says that the kernel reads the file by itself.
func (t *touches) opened(node int, whole bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, seen := t.at[node]
	if !seen {
		if len(t.list) == maxTouches {
			return
		}
		i = len(t.list)
		t.at[node] = i
		t.list = append(t.list, touch{control.Touch{Millis: time.Since(t.began).Milliseconds()}, node})
	}
	if whole && len(t.list[i].Ranges) == 0 {
		t.list[i].Whole = true
	}
}

// read notes a read. Reads mostly go on where the last one ended.
func (t *touches) read(node int, off, size int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, seen := t.at[node]
	if !seen {
		return // opened before Record
	}
	ranges := t.list[i].Ranges
	for j := range slices.Backward(ranges) {
		if r := &ranges[j]; off <= r[1] && off+size >= r[0] {
			*r = [2]int64{min(r[0], off), max(r[1], off+size)}
			return
		}
	}
	switch {
	case t.list[i].Whole && len(ranges) == 0:
	case len(ranges) < maxTouchRanges:
		t.list[i].Ranges = append(ranges, [2]int64{off, off + size})
	default:
		t.list[i].Whole, t.list[i].Ranges = true, nil
	}
}

// report answers the touches with the names of their files in tree.
func (t *touches) report(tree Tree) []control.Touch {
	if g, ok := tree.(Growing); ok && g.Grows() {
		return nil // it lists no names yet
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.named < len(t.list) {
		t.name(tree, 0, "")
		t.named = len(t.list)
	}
	out := make([]control.Touch, 0, len(t.list))
	for _, touch := range t.list {
		if touch.Path != "" && utf8.ValidString(touch.Path) {
			touch.Ranges = slices.Clone(touch.Ranges)
			out = append(out, touch.Touch)
		}
	}
	return out
}

func (t *touches) name(tree Tree, dir int, prefix string) {
	for name, i := range tree.ReadDir(dir, 0) {
		if at, ok := t.at[i]; ok && t.list[at].Path == "" {
			t.list[at].Path = prefix + name
		} else if !ok && tree.Node(i).Mode.IsDir() {
			t.name(tree, i, prefix+name+"/")
		}
	}
}

// Record implements control.Handler.
func (s *Server) Record(id string) error {
	a := s.fs.layers.find(id)
	if a == nil {
		return fmt.Errorf("cannot note what of layer %s is opened: %w", id, errdefs.ErrNotFound)
	}
	a.touched.reset()
	return nil
}

// Touched implements control.Handler.
func (s *Server) Touched(id string) ([]control.Touch, error) {
	a := s.fs.layers.find(id)
	if a == nil {
		return nil, fmt.Errorf("cannot tell what of layer %s was opened: %w", id, errdefs.ErrNotFound)
	}
	a, l, err := s.fs.layers.use(a.slot)
	if err != nil {
		return nil, err
	}
	defer a.users.Done()
	return a.touched.report(l), nil
}

// detail makes JSON of what a part of the server says of itself.
func detail(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil || v == nil {
		return nil
	}
	return data
}

// detail is empty for a layer that nobody has used yet.
func (a *attached) detail() json.RawMessage {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d, ok := a.layer.(Detailer); ok {
		return detail(d.Detail())
	}
	return nil
}
