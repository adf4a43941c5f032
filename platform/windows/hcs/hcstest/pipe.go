package hcstest

import (
	"io"
	"os"
	"sync"
)

// input is a handle of a program's standard input: the service has another, which CloseStdin closes.
type input struct{ io.Writer }

func (input) Close() error { return nil }

// output is a pipe that a program writes to. The service keeps it for as long as the program runs, whichever handles of it are closed.
type output struct {
	mu      sync.Mutex
	changed sync.Cond
	data    []byte
	ended   bool
}

func newOutput() *output {
	o := &output{}
	o.changed.L = &o.mu
	return o
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.data = append(o.data, b...)
	o.changed.Broadcast()
	return len(b), nil
}

// end is the program's end: what it wrote can still be read.
func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	o.changed.Broadcast()
}

func (o *output) open() io.ReadCloser { return &outputHandle{o: o} }

type outputHandle struct {
	o      *output
	closed bool
}

func (h *outputHandle) Read(b []byte) (int, error) {
	h.o.mu.Lock()
	defer h.o.mu.Unlock()
	for len(h.o.data) == 0 && !h.o.ended && !h.closed {
		h.o.changed.Wait()
	}
	if h.closed {
		return 0, os.ErrClosed
	}
	if len(h.o.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b, h.o.data)
	h.o.data = h.o.data[n:]
	return n, nil
}

func (h *outputHandle) Close() error {
	h.o.mu.Lock()
	defer h.o.mu.Unlock()
	h.closed = true
	h.o.changed.Broadcast()
	return nil
}
