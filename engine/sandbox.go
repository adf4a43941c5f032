package engine

import (
	"context"

	"github.com/slipwayd/slipway/metadata"
)

// GetSandbox is NotFound when there is none of that id.
func (e *Engine) GetSandbox(ctx context.Context, ns, id string) (metadata.Sandbox, error) {
	return view(ctx, e, func(tx *metadata.Tx) (metadata.Sandbox, error) { return tx.Sandboxes(ns).Get(id) })
}

// ListSandboxes answers those that match any of filters (all when there are none) in order of their ids.
func (e *Engine) ListSandboxes(ctx context.Context, ns string, filters ...string) ([]metadata.Sandbox, error) {
	return view(ctx, e, func(tx *metadata.Tx) ([]metadata.Sandbox, error) { return tx.Sandboxes(ns).List(filters...) })
}

// CreateSandbox records a sandbox. AlreadyExists when the id is in use.
func (e *Engine) CreateSandbox(ctx context.Context, ns string, s metadata.Sandbox) (metadata.Sandbox, error) {
	return update(ctx, e, func(tx *metadata.Tx) (metadata.Sandbox, error) { return tx.Sandboxes(ns).Create(s) })
}

// UpdateSandbox changes the fields that fieldpaths name; see metadata.Sandboxes.Update.
func (e *Engine) UpdateSandbox(ctx context.Context, ns string, s metadata.Sandbox, fieldpaths ...string) (metadata.Sandbox, error) {
	return update(ctx, e, func(tx *metadata.Tx) (metadata.Sandbox, error) { return tx.Sandboxes(ns).Update(s, fieldpaths...) })
}

// DeleteSandbox removes the record.
func (e *Engine) DeleteSandbox(ctx context.Context, ns, id string) error {
	return e.db.Update(ctx, func(tx *metadata.Tx) error { return tx.Sandboxes(ns).Delete(id) })
}
