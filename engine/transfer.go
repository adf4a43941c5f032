package engine

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/image/reference"
	"github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/metadata"
)

const (
	// transferLease is how long what a transfer made survives when the daemon dies before the image is recorded: long
	// enough that a repeated pull finds it.
	transferLease = 24 * time.Hour
	expireLabel   = "containerd.io/gc.expire" // on leases and images, RFC 3339
)

// Unpack asks that an image be unpacked for a platform into a storage driver.
type Unpack struct {
	Platform    ocispec.Platform // zero for the host's
	Snapshotter string           // empty for the default
}

// PullOptions says what to pull and how to record it.
type PullOptions struct {
	Ref          string // as users type it
	Remote       registry.Options
	Platforms    []ocispec.Platform // empty for the host's
	AllPlatforms bool
	Unpacks      []Unpack // empty: fetch only
	Lazy         string   // LazyAuto, LazyAlways or LazyNever; empty for what labels or the configuration say
	// Records answers the image records to write for what was pulled. After an error in it nothing is recorded.
	Records  func(image.Result) ([]metadata.Image, error)
	Progress image.ProgressFunc
	Patience Patience
}

// Pull fetches an image, unpacks it as asked and records it. What it makes is held by the scope's lease, or by one of its own until
// the record is there. A pull that was cut short by anything is resumed by the next.
func (e *Engine) Pull(ctx context.Context, sc Scope, o PullOptions) (_ []metadata.Image, err error) {
	pulling, ended := e.pulls.begin(sc.Namespace, o.Ref, o.Progress, e.publish, &err)
	defer ended()
	o.Progress = pulling.note
	ctx, unwatch := pulling.watch(ctx, o.Patience, &err)
	defer unwatch()
	sc, release, err := e.transferScope(ctx, sc)
	if err != nil {
		return nil, err
	}
	defer release()
	mode, err := e.lazyMode(ctx, sc.Namespace, o.Ref, o.Lazy)
	if err != nil {
		return nil, err
	}
	lazy := e.newLazyPull(mode, &o.Remote)
	closing := lazy.close
	defer func() { closing() }()
	pull := image.PullOptions{
		Ref: o.Ref, Registry: e.registry, Remote: o.Remote, Store: e.imageStore(sc),
		Platforms: o.Platforms, AllPlatforms: o.AllPlatforms, Progress: o.Progress, New: e.isNew(ctx, sc.Namespace, o.Ref),
	}
	rest := o.Unpacks
	if len(rest) > 0 {
		layers, err := e.layers(sc, rest[0].Snapshotter)
		if err != nil {
			return nil, err
		}
		layers.lazy = lazy
		pull.Layers = layers
		pull.Platforms = unpackFirst(pull.Platforms, rest[0].Platform)
		rest = rest[1:]
	}
	if e.indexes != nil {
		pull.Recorder = e.indexes.Own
	}
	result, err := image.Pull(ctx, pull)
	if err != nil {
		return nil, err
	}
	defer e.filler.poke()
	if len(o.Unpacks) > 0 {
		closing = func() { e.bg.Go(func() { e.ahead(sc, o.Unpacks[0], result.Target, lazy) }) }
	}
	for _, u := range rest {
		if err := e.unpack(ctx, sc, o.Ref, result.Target, u, o.Progress); err != nil {
			return nil, err
		}
	}
	records, err := o.Records(result)
	if err != nil {
		return nil, err
	}
	return e.recordImages(ctx, sc, records)
}

// isNew says that a namespace has no image of that name.
func (e *Engine) isNew(ctx context.Context, namespace, ref string) bool {
	r, err := reference.Parse(ref)
	if err == nil {
		_, err = e.GetImage(ctx, namespace, r.String())
	}
	return errdefs.IsNotFound(err)
}

// unpackFirst orders platforms so that the one to unpack leads, which is how image.Pull is told.
func unpackFirst(all []ocispec.Platform, first ocispec.Platform) []ocispec.Platform {
	if first.OS == "" && first.Architecture == "" {
		return all
	}
	ordered := []ocispec.Platform{first}
	for _, p := range all {
		if platforms.FormatAll(p) != platforms.FormatAll(first) {
			ordered = append(ordered, p)
		}
	}
	return ordered
}

func (e *Engine) unpack(ctx context.Context, sc Scope, name string, target ocispec.Descriptor, u Unpack, progress image.ProgressFunc) error {
	layers, err := e.layers(sc, u.Snapshotter)
	if err != nil {
		return err
	}
	o := image.UnpackOptions{Name: name, Target: target, Store: e.imageStore(sc), Layers: layers, Progress: progress}
	if u.Platform.OS != "" || u.Platform.Architecture != "" {
		o.Platform = &u.Platform
	}
	_, err = image.Unpack(ctx, o)
	return err
}

// Tag records the target of the image source under further names.
func (e *Engine) Tag(ctx context.Context, sc Scope, source string, records func(ocispec.Descriptor) ([]metadata.Image, error)) ([]metadata.Image, error) {
	img, err := e.GetImage(ctx, sc.Namespace, source)
	if err != nil {
		return nil, err
	}
	named, err := records(img.Target)
	if err != nil {
		return nil, err
	}
	return e.recordImages(ctx, sc, named)
}

// recordImages creates or updates all records in one transaction.
func (e *Engine) recordImages(ctx context.Context, sc Scope, records []metadata.Image) ([]metadata.Image, error) {
	if len(records) == 0 {
		return nil, fmt.Errorf("transfer gives the image no name: %w", errdefs.ErrNotFound)
	}
	var written []metadata.Image
	var events []Payload
	err := e.db.Update(sc.ctx(ctx), func(tx *metadata.Tx) error {
		written, events = nil, nil
		images := tx.Images(sc.Namespace)
		for _, r := range records {
			img, err := images.Create(r)
			var event Payload = ImageCreate{Name: r.Name, Labels: r.Labels}
			if errdefs.IsAlreadyExists(err) {
				if r, err = keepMode(images, r); err != nil {
					return err
				}
				img, err = images.Update(r, "target", "labels")
				event = ImageUpdate{Name: r.Name, Labels: r.Labels}
			}
			if err != nil {
				return err
			}
			written, events = append(written, img), append(events, event)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, p := range events {
		topic := "/images/create"
		if _, ok := p.(ImageUpdate); ok {
			topic = "/images/update"
		}
		e.publish(sc.Namespace, topic, p)
	}
	return written, nil
}

// transferScope gives the scope a lease for the time of a transfer, unless the caller brought one.
func (e *Engine) transferScope(ctx context.Context, sc Scope) (Scope, func(), error) {
	if sc.Lease != "" {
		return sc, func() {}, nil
	}
	sc.Lease = "transfer-" + rand.Text()
	lease := metadata.Lease{ID: sc.Lease, Labels: map[string]string{
		expireLabel: time.Now().Add(transferLease).UTC().Format(time.RFC3339),
	}}
	if _, err := e.CreateLease(ctx, sc.Namespace, lease); err != nil {
		return sc, nil, fmt.Errorf("cannot hold what the transfer makes: %w", err)
	}
	return sc, func() {
		err := e.DeleteLease(context.WithoutCancel(ctx), sc.Namespace, sc.Lease, false)
		if err != nil && !errdefs.IsNotFound(err) {
			e.log.Warn("cannot delete the lease of a transfer, it expires by itself", "lease", sc.Lease, "err", err)
		}
	}, nil
}
