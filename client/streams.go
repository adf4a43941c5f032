package client

import (
	"context"
	"io"
	"sync"
	"time"
)

// Streams are a process's standard streams as the client sees them; nil for none. With Terminal, Stderr is not used.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Terminal       bool
	// LogURI sends the output to a place that the shim writes instead, such as file:///path?format=cri: nothing of the client is needed for it to go on.
	LogURI string
}

// attached is the client's end of the streams of one process.
type attached struct {
	stdin, stdout, stderr string // what the API is told
	remove                func() // takes the names away; the open ends stay
	closers               []io.Closer
	inputEnded            chan struct{}  // closed when all input is written; nil without input
	copies                sync.WaitGroup // of output
	moved                 activity
	ending                []func() // told that the process has ended, before the rest of the output is waited for
	stop                  context.CancelFunc
}

// activity remembers when output last moved.
type activity struct {
	mu   sync.Mutex
	last time.Time
}

func (a *activity) touch() {
	a.mu.Lock()
	a.last = time.Now()
	a.mu.Unlock()
}

func (a *activity) quiet() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Since(a.last)
}

// copyOut copies a stream of output until its end.
func (a *attached) copyOut(w io.Writer, r io.Reader) {
	a.copies.Add(1)
	go func() {
		defer a.copies.Done()
		_, _ = io.Copy(writer{w, &a.moved}, r)
	}()
}

// writer notes when something passes.
type writer struct {
	io.Writer
	moved *activity
}

func (w writer) Write(b []byte) (int, error) {
	w.moved.touch()
	return w.Writer.Write(b)
}

// started is told when the shim has opened its ends: the names are not needed any more, and a killed client leaves none.
func (a *attached) started() {
	if a.remove != nil {
		a.remove()
		a.remove = nil
	}
}

// leftBehind is how long output may be silent, after a process has ended, before a descendant that still holds the streams
// is no longer waited for.
const leftBehind = 300 * time.Millisecond

// drain waits until the output of an ended process has arrived, and ends the copying.
func (a *attached) drain() {
	for _, told := range a.ending {
		told()
	}
	done := make(chan struct{})
	go func() { a.copies.Wait(); close(done) }()
	a.moved.touch()
	tick := time.NewTicker(leftBehind / 3)
	defer tick.Stop()
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		case <-tick.C:
			ended = a.moved.quiet() > leftBehind
		}
	}
	a.cancel()
	<-done
}

// cancel ends the copying at once.
func (a *attached) cancel() {
	a.started()
	a.stop()
	for _, c := range a.closers {
		_ = c.Close()
	}
	a.closers = nil
}
