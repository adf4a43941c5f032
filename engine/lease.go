package engine

import (
	"context"

	"github.com/slipwayd/slipway/metadata"
)

// CreateLease is AlreadyExists when the id is in use.
func (e *Engine) CreateLease(ctx context.Context, ns string, l metadata.Lease) (metadata.Lease, error) {
	return update(ctx, e, func(tx *metadata.Tx) (metadata.Lease, error) { return tx.Leases(ns).Create(l) })
}

// DeleteLease lets go of what it held; that is collected, before DeleteLease returns when sync is set.
func (e *Engine) DeleteLease(ctx context.Context, ns, id string, sync bool) error {
	if err := e.db.Update(ctx, func(tx *metadata.Tx) error { return tx.Leases(ns).Delete(id) }); err != nil {
		return err
	}
	return e.gc.scheduleOrWait(ctx, sync)
}

// ListLeases answers those that match any of filters (all when there are none) in order of their ids.
func (e *Engine) ListLeases(ctx context.Context, ns string, filters ...string) ([]metadata.Lease, error) {
	return view(ctx, e, func(tx *metadata.Tx) ([]metadata.Lease, error) { return tx.Leases(ns).List(filters...) })
}

// AddLeaseResource keeps r from collection while the lease lives. NotFound when there is no such lease.
func (e *Engine) AddLeaseResource(ctx context.Context, ns, id string, r metadata.Resource) error {
	return e.db.Update(ctx, func(tx *metadata.Tx) error { return tx.Leases(ns).AddResource(id, e.ownResource(r)) })
}

// DeleteLeaseResource lets r go.
func (e *Engine) DeleteLeaseResource(ctx context.Context, ns, id string, r metadata.Resource) error {
	if err := e.db.Update(ctx, func(tx *metadata.Tx) error { return tx.Leases(ns).RemoveResource(id, e.ownResource(r)) }); err != nil {
		return err
	}
	e.gc.schedule()
	return nil
}

// LeaseResources answers what the lease holds.
func (e *Engine) LeaseResources(ctx context.Context, ns, id string) ([]metadata.Resource, error) {
	return view(ctx, e, func(tx *metadata.Tx) ([]metadata.Resource, error) { return tx.Leases(ns).Resources(id) })
}
