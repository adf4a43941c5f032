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
