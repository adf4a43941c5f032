package engine

import (
	"context"
	"fmt"
	"path"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/image/reference"
	"github.com/slipwayd/slipway/metadata"
)

// Whether layers are left in their registry until they are read. LabelLazy on a namespace, or on an image's record, holds one of these.
const (
	LazyAuto   = "auto"   // layers that can be and are large enough
	LazyAlways = "always" // all layers that can be
	LazyNever  = "never"

	LabelLazy = "slipway.io/lazy"
	// LabelLazyIndex is on a snapshot that was pulled lazily, with the kind of its index; LabelLazyReason is on one that was
	// not and says why.
	LabelLazyIndex  = "slipway.io/lazy-index"
	LabelLazyReason = "slipway.io/lazy-reason"
)

// checkLazy is InvalidArgument for a mode that there is not.
func checkLazy(mode string) error {
	switch mode {
	case "", LazyAuto, LazyAlways, LazyNever:
		return nil
	}
	return fmt.Errorf("lazy must be auto, always or never, not %.100q: %w", mode, errdefs.ErrInvalidArgument)
}

// check is InvalidArgument for modes that there are not and patterns that match nothing.
func (o LazyOptions) check() error {
	for pattern, mode := range o.Images {
		if _, err := path.Match(pattern, ""); err != nil || mode == "" || checkLazy(mode) != nil {
			return fmt.Errorf("lazy images: %q = %.100q is no pattern of names with auto, always or never: %w", pattern, mode, errdefs.ErrInvalidArgument)
		}
	}
	return checkLazy(o.Mode)
}

// lazyMode is how the image ref is pulled into a namespace: as the first of these says that says something. The pull itself; the
// label of the record that it will replace; the configuration's patterns of names; the namespace's label; the configuration.
func (e *Engine) lazyMode(ctx context.Context, namespace, ref, asked string) (string, error) {
	if err := checkLazy(asked); err != nil || asked != "" {
		return asked, err
	}
	if r, err := reference.Parse(ref); err == nil {
		img, err := e.GetImage(ctx, namespace, r.String())
		if err != nil && !errdefs.IsNotFound(err) {
			return "", err
		}
		if mode := labelledMode(img.Labels); mode != "" {
			return mode, nil
		}
		if mode := e.lazy.modeOf(r.Name()); mode != "" {
			return mode, nil
		}
	}
	ns, err := e.GetNamespace(ctx, namespace)
	if err != nil && !errdefs.IsNotFound(err) {
		return "", err
	}
	if mode := labelledMode(ns.Labels); mode != "" {
		return mode, nil
	}
	return e.lazy.Mode, nil
}

// labelledMode is what labels say; nothing where they say what there is not, for anybody may write any label.
func labelledMode(labels map[string]string) string {
	if mode := labels[LabelLazy]; checkLazy(mode) == nil {
		return mode
	}
	return ""
}

// modeOf is what the configuration says of an image by its name; empty when that is nothing.
func (o LazyOptions) modeOf(name string) string {
	longest := ""
	for pattern := range o.Images {
		if ok, _ := path.Match(pattern, name); ok && (len(pattern) > len(longest) || len(pattern) == len(longest) && pattern > longest) {
			longest = pattern
		}
	}
	return o.Images[longest]
}

// keepMode has an image that is pulled again be pulled as before, unless this pull has said how.
func keepMode(images metadata.Images, r metadata.Image) (metadata.Image, error) {
	if r.Labels[LabelLazy] != "" {
		return r, nil
	}
	before, err := images.Get(r.Name)
	if mode := labelledMode(before.Labels); err == nil && mode != "" {
		labels := map[string]string{LabelLazy: mode}
		for k, v := range r.Labels {
			labels[k] = v
		}
		r.Labels = labels
	}
	return r, err
}
