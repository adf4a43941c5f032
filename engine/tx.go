package engine

import (
	"context"

	"github.com/slipwayd/slipway/metadata"
)

// update runs fn in a transaction and answers its result.
func update[T any](ctx context.Context, e *Engine, fn func(*metadata.Tx) (T, error)) (out T, err error) {
	err = e.db.Update(ctx, func(tx *metadata.Tx) error {
		out, err = fn(tx)
		return err
	})
	return out, err
}

// view is update without the right to write.
func view[T any](ctx context.Context, e *Engine, fn func(*metadata.Tx) (T, error)) (out T, err error) {
	err = e.db.View(ctx, func(tx *metadata.Tx) error {
		out, err = fn(tx)
		return err
	})
	return out, err
}

// ctx joins what is created under it to the lease of the scope.
func (s Scope) ctx(ctx context.Context) context.Context {
	if s.Lease == "" {
		return ctx
	}
	return metadata.WithLease(ctx, s.Lease)
}

// pageSize is how many records one read transaction of a walk answers: few enough that a page is small in memory, and that
// no transaction is open while a client is slow.
const pageSize = 256

// pages calls fn with one page after the other until one is not full.
func pages[T any](ctx context.Context, e *Engine, fn func([]T) error, read func(tx *metadata.Tx, last *T) ([]T, error)) error {
	var last *T
	for {
		page, err := view(ctx, e, func(tx *metadata.Tx) ([]T, error) { return read(tx, last) })
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return nil
		}
		if err := fn(page); err != nil {
			return err
		}
		if len(page) < pageSize {
			return nil
		}
		last = &page[len(page)-1]
	}
}
