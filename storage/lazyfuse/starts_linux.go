package lazyfuse

import (
	"context"

	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/storage/lazyfuse/server/control"
)

var _ storage.Starter = (*Driver)(nil)

// Record implements storage.Starter.
func (d *Driver) Record(ctx context.Context, id string) error { return d.client.Record(ctx, id) }

// Touched implements storage.Starter.
func (d *Driver) Touched(ctx context.Context, id string) ([]storage.Touch, error) {
	list, err := d.client.Touched(ctx, id)
	if err != nil {
		return nil, err
	}
	out := make([]storage.Touch, len(list))
	for i, t := range list {
		out[i] = storage.Touch(t)
	}
	return out, nil
}

// Replay implements storage.Starter.
func (d *Driver) Replay(ctx context.Context, stack []string, files []storage.Wanted) error {
	if err := d.ready(ctx, stack); err != nil {
		return err
	}
	served := map[string]bool{}
	var wanted []control.Wanted
	for i := len(stack) - 1; i >= 0; i-- {
		s := d.lookup(stack[i])
		if served[stack[i]] = s != nil && !s.isFilled(); served[stack[i]] && len(files) == 0 {
			wanted = append(wanted, control.Wanted{ID: stack[i]})
		}
	}
	for _, f := range files {
		if served[f.ID] {
			wanted = append(wanted, control.Wanted(f))
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	return d.client.Replay(ctx, wanted)
}
