// Package oneshot gives processes that are executed for somebody their streams, and ends those that take too long together with all that they began.
//
// It imports package ipc and nothing else of Slipway. Streams are fifos in directories of the caller, which removes them; a crash leaves those. On
// Windows they are pipes that only administrators and the system can open; they end with this process, and a crash leaves nothing.
package oneshot

import (
	"context"
	"io"
)

// Name answers how a stream of that name is called, for the functions below and for who has its other end: a path in dir, or on Windows a pipe whose
// name nobody can guess, another one each time.
func Name(dir, stream string) string { return name(dir, stream) }

// Output is what comes out of one fifo. Its owner calls Drain or Close.
type Output struct{ output }

// NewOutput makes a fifo at path and begins to read it. Up to limit bytes are kept, the rest is read and dropped, so that no
// writer ever waits.
func NewOutput(path string, limit int) (*Output, error) { return newOutput(path, limit) }

// NewCopy makes a fifo at path and copies what comes out of it to w, until Drain. When w fails the rest is read and dropped, so that
// writers wait for a slow w but never for one that is gone.
func NewCopy(path string, w io.Writer) (*Output, error) { return newCopy(path, w) }

// Drain answers what was written so far (nothing, when that is copied) and stops reading. Processes that go on writing get SIGPIPE.
func (o *Output) Drain() ([]byte, error) { return o.drain() }

// Close stops reading.
func (o *Output) Close() { o.close() }

// Tap is a fifo that somebody else is to write a copy to. Its owner calls Close.
type Tap struct{ tap }

// NewTap makes a fifo at path and opens it for reading.
func NewTap(path string, w io.Writer) (*Tap, error) { return newTap(path, w) }

// Copy carries what is written to w, until the last writer closes the fifo. There must be one by now.
func (t *Tap) Copy() error { return t.copy() }

// Close ends Copy, which then fails.
func (t *Tap) Close() { t.close() }

// Input is what a process reads, through a fifo. Its owner calls Close.
type Input struct{ input }

// NewInput makes a fifo at path, which is not at its end before Close, and after that only if nobody else has it open.
func NewInput(path string) (*Input, error) { return newInput(path) }

// Copy writes what r reads, until its end or Close.
func (i *Input) Copy(r io.Reader) error { return i.copy(r) }

// Close ends Copy as soon as its reader answers.
func (i *Input) Close() { i.close() }

// MakeInlet makes what a process is to read from while those who write come and go, a fifo at path unless there is one, and answers how its shim is
// told of it. On Windows the shim makes it: a pipe, named by a file at path.
func MakeInlet(path string) (uri string, err error) { return makeInlet(path) }

// OpenInput answers an input to an inlet, which stays when the input is closed. NotFound when nobody reads.
func OpenInput(ctx context.Context, path string) (*Input, error) { return openInput(ctx, path) }

// KillTree kills a process, what it began, and what is of its session, but not processes that made a session of their own
// after their parents had ended. They are stopped one by one first, so that none begins another unseen. On Windows it does nothing: only the
// service can end what is in a container, and knows of no trees.
func KillTree(pid int) error { return killTree(pid) }
