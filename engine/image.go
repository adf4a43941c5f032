package engine

import (
	"context"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/metadata"
)

// GetImage is NotFound when there is none of that name.
func (e *Engine) GetImage(ctx context.Context, ns, name string) (metadata.Image, error) {
	return view(ctx, e, func(tx *metadata.Tx) (metadata.Image, error) { return tx.Images(ns).Get(name) })
}

// ListImages answers those that match any of filters (all when there are none) in order of their names.
func (e *Engine) ListImages(ctx context.Context, ns string, filters ...string) ([]metadata.Image, error) {
	return view(ctx, e, func(tx *metadata.Tx) ([]metadata.Image, error) { return tx.Images(ns).List(filters...) })
}

// CreateImage names a target, which keeps it and what it refers to from collection. AlreadyExists when the name is in use.
func (e *Engine) CreateImage(ctx context.Context, s Scope, img metadata.Image) (metadata.Image, error) {
	made, err := update(s.ctx(ctx), e, func(tx *metadata.Tx) (metadata.Image, error) { return tx.Images(s.Namespace).Create(img) })
	if err != nil {
		return made, err
	}
	e.publish(s.Namespace, "/images/create", ImageCreate{Name: made.Name, Labels: made.Labels})
	return made, nil
}

// UpdateImage changes the fields that fieldpaths name (target, labels, labels.KEY, annotations), all when there are none.
func (e *Engine) UpdateImage(ctx context.Context, s Scope, img metadata.Image, fieldpaths ...string) (metadata.Image, error) {
	made, err := update(s.ctx(ctx), e, func(tx *metadata.Tx) (metadata.Image, error) {
		return tx.Images(s.Namespace).Update(img, fieldpaths...)
	})
	if err != nil {
		return made, err
	}
	e.publish(s.Namespace, "/images/update", ImageUpdate{Name: made.Name, Labels: made.Labels})
	e.gc.schedule() // the old target may be garbage now
	return made, nil
}

// DeleteImage removes the name; what only it referred to is collected, before DeleteImage returns when sync is set. With a
// target it is NotFound when the name has another one by now.
func (e *Engine) DeleteImage(ctx context.Context, ns, name string, target *ocispec.Descriptor, sync bool) error {
	var expect digest.Digest
	if target != nil {
		expect = target.Digest
	}
	if err := e.db.Update(ctx, func(tx *metadata.Tx) error { return tx.Images(ns).Delete(name, expect) }); err != nil {
		return err
	}
	e.publish(ns, "/images/delete", ImageDelete{Name: name})
	return e.gc.scheduleOrWait(ctx, sync)
}
