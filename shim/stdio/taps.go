package stdio

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// tapPatience is how long a process waits for somebody who reads along and does not keep up. Then they are cut off.
const tapPatience = 10 * time.Second

// taps are the clients that read along with what goes into one log. Each has a fifo of its own for each stream.
type taps struct {
	mu    sync.Mutex
	open  map[*os.File]string // → stream
	ended bool
}

// add takes over f.
func (t *taps) add(stream string, f *os.File) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		f.Close()
		return fmt.Errorf("the process has ended: %w", errdefs.ErrNotFound)
	}
	if t.open == nil {
		t.open = map[*os.File]string{}
	}
	t.open[f] = stream
	return nil
}

// write gives text to those who read stream. It has one caller at a time for each stream, and holds no lock while it waits.
func (t *taps) write(stream string, text []byte) {
	t.mu.Lock()
	var all []*os.File
	for f, s := range t.open {
		if s == stream {
			all = append(all, f)
		}
	}
	t.mu.Unlock()
	for _, f := range all {
		err := f.SetWriteDeadline(time.Now().Add(tapPatience))
		if err == nil {
			_, err = f.Write(text)
		}
		if err != nil { // gone, or too slow
			t.mu.Lock()
			delete(t.open, f)
			t.mu.Unlock()
			f.Close()
		}
	}
}

// end closes all, so that their readers see the end of the stream.
func (t *taps) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	for f := range t.open {
		f.Close()
	}
	t.open = nil
}
