// Package oneshot takes the output of processes that are executed for it, and ends those that take too long together with all that they began.
//
// It imports nothing of Slipway. Outputs are fifos in directories of the caller, which removes them; a crash leaves those. On
// systems other than Linux every function answers NotImplemented.
package oneshot

// Output is what comes out of one fifo. Its owner calls Drain or Close.
type Output struct{ output }

// NewOutput makes a fifo at path and begins to read it. Up to limit bytes are kept, the rest is read and dropped, so that no
// writer ever waits.
func NewOutput(path string, limit int) (*Output, error) { return newOutput(path, limit) }

// Drain answers what was written so far and stops reading. Processes that go on writing get SIGPIPE.
func (o *Output) Drain() ([]byte, error) { return o.drain() }

// Close stops reading.
func (o *Output) Close() { o.close() }

// KillTree kills a process, what it began, and what is of its session, but not processes that made a session of their own
// after their parents had ended. They are stopped one by one first, so that none begins another unseen.
func KillTree(pid int) error { return killTree(pid) }
