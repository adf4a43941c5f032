package stdio

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// tapPatience is how long a process waits for somebody who reads along and does not keep up. Then they are cut off.
const tapPatience = 10 * time.Second

// taps are the clients that read along with what goes into one log.
type taps struct {
	mu    sync.Mutex
	open  map[*tap]struct{}
	ended bool
}

// tap is one of them: a fifo or pipe of its own for each stream that it wants, which end together.
type tap map[string]tapEnd

// tapEnd is the end that is written to: an *os.File, or a connection.
type tapEnd interface {
	io.WriteCloser
	SetWriteDeadline(time.Time) error
}

func (t tap) close() {
	for _, f := range t {
		f.Close()
	}
}

// add takes over one.
func (t *taps) add(one tap) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		one.close()
		return fmt.Errorf("the process has ended: %w", errdefs.ErrNotFound)
	}
	if t.open == nil {
		t.open = map[*tap]struct{}{}
	}
	t.open[&one] = struct{}{}
	return nil
}

// write gives text to those who read stream. It has one caller at a time for each stream, and holds no lock while it waits.
func (t *taps) write(stream string, text []byte) {
	t.mu.Lock()
	var all []*tap
	for one := range t.open {
		if (*one)[stream] != nil {
			all = append(all, one)
		}
	}
	t.mu.Unlock()
	for _, one := range all {
		f := (*one)[stream]
		err := f.SetWriteDeadline(time.Now().Add(tapPatience))
		if err == nil {
			_, err = f.Write(text)
		}
		if err != nil { // gone, or too slow
			t.mu.Lock()
			delete(t.open, one)
			t.mu.Unlock()
			one.close()
		}
	}
}

// end closes all, so that their readers see the end of the stream.
func (t *taps) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	for one := range t.open {
		one.close()
	}
	t.open = nil
}
