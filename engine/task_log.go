package engine

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

// logReopener are tasks whose shim writes their log.
type logReopener interface {
	ReopenLog(ctx context.Context, ns, id, execID string) error
}

// ReopenLog has the log of a task's init written to a new file of the same name, after rotation. NotImplemented when its shim
// writes none.
func (e *Engine) ReopenLog(ctx context.Context, ns, id string) error {
	r, ok := e.tasks.(logReopener)
	if !ok {
		return fmt.Errorf("logs of tasks are not written here: %w", errdefs.ErrNotImplemented)
	}
	return r.ReopenLog(ctx, ns, id, "")
}

// tapper are tasks whose output others can read along with.
type tapper interface {
	Tap(ctx context.Context, ns, id, stdout, stderr string) error
}

// Tap has what a task's init writes from now on copied to fifos that the caller reads, "" for none. They end with the task, with its shim, and
// when they are not read for long. NotImplemented or FailedPrecondition when its shim cannot.
func (e *Engine) Tap(ctx context.Context, ns, id, stdout, stderr string) error {
	t, ok := e.tasks.(tapper)
	if !ok {
		return fmt.Errorf("the output of tasks cannot be read along here: %w", errdefs.ErrNotImplemented)
	}
	return t.Tap(ctx, ns, id, stdout, stderr)
}
