package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/internal/inflate"
)

// Unpack makes snapshots of an image whose blobs are in the store, and labels its config so that it holds them. Layers whose
// snapshots are there are left alone. NotFound when a blob is not here or the image has nothing for the platform.
func Unpack(ctx context.Context, o UnpackOptions) (Result, error) {
	limits := o.Limits.withDefaults()
	desc, m, err := Manifest(ctx, o.Store, o.Target, o.Platform)
	if err != nil {
		return Result{}, fmt.Errorf("cannot unpack %s: %w", o.Name, err)
	}
	img, err := readConfig(ctx, o.Store, m.Config, limits.Config)
	if err != nil {
		return Result{}, fmt.Errorf("cannot unpack %s: %w", o.Name, err)
	}
	u := &unpacker{store: o.Store, layers: o.Layers, recorder: o.Recorder, limits: limits, name: o.Name}
	report := NewReporter(o.Progress)
	u.fetch = func(ctx context.Context, d ocispec.Descriptor, to *pipe) error {
		if to == nil {
			return nil
		}
		return sendBlob(ctx, o.Store, d, to, u.part(d))
	}
	u.part = func(d ocispec.Descriptor) *Part { return report.Part(refKey(d), desc.Digest, d) }
	chain, err := u.unpack(ctx, m.Config, img, m.Layers)
	if err != nil {
		return Result{}, fmt.Errorf("cannot unpack %s: %w", o.Name, err)
	}
	return Result{Name: o.Name, Target: o.Target, Manifest: desc, ChainID: chain}, nil
}

// unpacker turns the layers of one manifest into snapshots.
type unpacker struct {
	store    Store
	layers   Layers
	recorder Recorder
	limits   Limits
	name     string
	remote   *registry.Remote // where layers can be left; nil when they are all here
	manifest ocispec.Descriptor
	// fetch brings the blob into the store if it is not there. When to is not nil it also sends all bytes of the blob there;
	// the caller ends the pipe.
	fetch func(ctx context.Context, d ocispec.Descriptor, to *pipe) error
	part  func(d ocispec.Descriptor) *Part
	// elsewhere is asked after a layer could not be unpacked: true when that was for wrong bytes of the blob, which is in the
	// store by now with the right ones. nil when there is nowhere else to get it.
	elsewhere func(ctx context.Context, d ocispec.Descriptor, err error) bool
}

// unpack answers the chain ID of all layers.
func (u *unpacker) unpack(ctx context.Context, config ocispec.Descriptor, img ocispec.Image, descs []ocispec.Descriptor) (digest.Digest, error) {
	steps, err := u.steps(config, img, descs)
	if err != nil {
		return "", err
	}
	have, err := u.have(ctx, steps)
	if err != nil {
		return "", err
	}
	if err := u.run(ctx, steps, have); err != nil {
		return "", err
	}
	if len(steps) == 0 {
		return "", nil
	}
	chain := steps[len(steps)-1].Chain
	label := "containerd.io/gc.ref.snapshot." + u.layers.Driver()
	if err := u.store.SetLabels(ctx, config.Digest, map[string]string{label: chain.String()}); err != nil {
		return "", fmt.Errorf("cannot label config %s: %w", config.Digest, err)
	}
	return chain, nil
}

// steps checks that the image can be unpacked and computes its chain.
func (u *unpacker) steps(config ocispec.Descriptor, img ocispec.Image, descs []ocispec.Descriptor) ([]Layer, error) {
	if len(descs) > u.limits.Layers {
		return nil, fmt.Errorf("the image has %d layers, more than the %d allowed: %w", len(descs), u.limits.Layers, errdefs.ErrOutOfRange)
	}
	if len(img.RootFS.DiffIDs) != len(descs) {
		return nil, fmt.Errorf("config %s has %d diff IDs for %d layers: %w", config.Digest, len(img.RootFS.DiffIDs), len(descs), errdefs.ErrInvalidArgument)
	}
	chain := ChainIDs(img.RootFS.DiffIDs)
	var steps []Layer
	for i, d := range descs {
		if err := checkLayer(d, img.OS); err != nil {
			return nil, err
		}
		l := Layer{Desc: d, DiffID: img.RootFS.DiffIDs[i], Chain: chain[i], Index: i, Image: u.name, Manifest: u.manifest}
		if i > 0 {
			l.Parent = chain[i-1]
		}
		steps = append(steps, l)
	}
	return steps, nil
}

// have is how many of the lowest layers are snapshots already.
func (u *unpacker) have(ctx context.Context, steps []Layer) (int, error) {
	for n := len(steps); n > 0; n-- {
		ok, err := u.layers.Has(ctx, steps[n-1].Chain)
		if err != nil {
			return 0, fmt.Errorf("cannot look for snapshot %s: %w", steps[n-1].Chain, err)
		}
		if ok {
			return n, nil
		}
	}
	return 0, nil
}

// run fetches all layers and unpacks those from number have on, side by side, committing them in order.
func (u *unpacker) run(ctx context.Context, steps []Layer, have int) (err error) {
	defer func(caller context.Context) { // a layer may notice no more than that it is to stop
		if why := context.Cause(caller); err != nil && why != nil && !errors.Is(err, why) && errors.Is(err, context.Canceled) {
			err = fmt.Errorf("%w: %w", err, why)
		}
	}(ctx)
	group, ctx := errgroup.WithContext(ctx)
	slots := make(chan struct{}, u.limits.Parallel)
	below := make(chan struct{}) // closed when the layer below is committed
	close(below)
	offers := u.offers(ctx, steps[have:])
	for i, l := range steps {
		if i >= have && offers[i-have] != nil {
			parent, committed := below, make(chan struct{})
			below = committed
			group.Go(func() error {
				if err := u.serve(ctx, l, offers[i-have], parent); err != nil {
					return fmt.Errorf("layer %d (%s): %w", l.Index, l.Desc.Digest, err)
				}
				close(committed)
				return nil
			})
			continue
		}
		// Slots are taken from the base upwards, so that a layer never waits for one that has no slot.
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil { // also when there was a slot
			if err := group.Wait(); err != nil {
				return err
			}
			return context.Cause(ctx) // the caller's end, which those under way did not notice
		}
		release := sync.OnceFunc(func() { <-slots })
		if i < have {
			group.Go(func() error {
				defer release()
				return u.here(ctx, l)
			})
			continue
		}
		parent, committed := below, make(chan struct{})
		below = committed
		group.Go(func() error {
			defer release()
			if err := u.layer(ctx, l, parent, release); err != nil {
				return fmt.Errorf("layer %d (%s): %w", l.Index, l.Desc.Digest, err)
			}
			close(committed)
			return nil
		})
	}
	return group.Wait()
}

// layer unpacks one layer while it is fetched and commits it when parent is closed. It gives its slot back as soon as it only
// waits.
func (u *unpacker) layer(ctx context.Context, l Layer, parent <-chan struct{}, release func()) (err error) {
	if !u.layers.Independent() {
		if err := u.fetch(ctx, l.Desc, nil); err != nil {
			return err
		}
		release()
		if err := wait(ctx, parent); err != nil {
			return err
		}
	}
	unpack := func() error {
		return u.stage(ctx, l, parent, func(staged Staged) error {
			defer release()
			return u.apply(ctx, l, staged)
		})
	}
	if err = unpack(); err != nil && u.elsewhere != nil && u.elsewhere(ctx, l.Desc, err) {
		err = unpack()
	}
	if err == nil {
		u.part(l.Desc).Enter(Done)
	}
	return err
}

// serve stages a layer that is left where it is, and commits it when parent is closed. It needs no slot.
func (u *unpacker) serve(ctx context.Context, l Layer, offer Offer, parent <-chan struct{}) error {
	err := u.stage(ctx, l, parent, func(staged Staged) error { return offer(ctx, staged) })
	if err == nil {
		u.part(l.Desc).Enter(Served)
	}
	return err
}

// stage has fill make what a staged layer shows and commits it when parent is closed.
func (u *unpacker) stage(ctx context.Context, l Layer, parent <-chan struct{}, fill func(Staged) error) (err error) {
	staged, err := u.layers.Stage(ctx, l)
	if err != nil {
		return fmt.Errorf("cannot stage: %w", err)
	}
	defer func() {
		if err != nil {
			if abortErr := staged.Abort(context.WithoutCancel(ctx)); abortErr != nil {
				err = errors.Join(err, fmt.Errorf("cannot drop the staged layer: %w", abortErr))
			}
		}
	}()
	if err := fill(staged); err != nil {
		return err
	}
	if err := wait(ctx, parent); err != nil {
		return err
	}
	if err := staged.Commit(ctx); err != nil {
		return fmt.Errorf("cannot commit snapshot %s: %w", l.Chain, err)
	}
	return nil
}

func wait(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// apply runs the pipeline of one layer: fetch and store, decompress, hash and unpack, each in a goroutine of its own. It is
// nil only when the blob is in the store with its digest checked and the uncompressed bytes are those of the diff ID.
func (u *unpacker) apply(ctx context.Context, l Layer, staged Staged) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	compressed, diff, fetched := newPipe(), newPipe(), make(chan bool, 1)
	check := &verifier{r: diff, left: u.limits.Diff, limit: u.limits.Diff}
	record := u.recorder != nil && isSHA256(l.DiffID) && u.recorder.Wants(l)
	if !record && l.DiffID != "" {
		check.verify = l.DiffID.Verifier()
	}
	stages := []func() error{
		func() error {
			err := u.fetch(ctx, l.Desc, compressed)
			compressed.end(err)
			fetched <- err == nil
			return err
		},
		func() error {
			open := decompressor
			if record {
				open = func(blob io.Reader) (io.ReadCloser, error) {
					recording, err := u.recorder.Record(l, blob)
					check.recording = recording // before the other side of the pipe has a byte
					return recording, err
				}
			}
			err := decompress(open, compressed, diff)
			compressed.close()
			diff.end(err)
			return err
		},
		func() error {
			defer diff.close()
			err := consume(ctx, l, staged, check)
			if err == nil && record && <-fetched {
				check.recording.Keep()
			}
			return err
		},
	}
	errs := make([]error, len(stages))
	var group sync.WaitGroup
	for i, stage := range stages {
		group.Go(func() {
			if errs[i] = stage(); errs[i] != nil {
				cancel()
			}
		})
	}
	group.Wait()
	return cause(errs)
}

// cause is the error of the first stage that did not merely notice that another had failed.
func cause(errs []error) error {
	for _, err := range errs {
		if err != nil && !errors.Is(err, io.ErrClosedPipe) && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return errors.Join(errs...)
}

func decompress(open func(io.Reader) (io.ReadCloser, error), from, to *pipe) error {
	r, err := open(from)
	if err != nil {
		return fmt.Errorf("cannot decompress: %w", err)
	}
	defer r.Close()
	if err := to.readFrom(r); err != nil {
		return fmt.Errorf("cannot decompress: %w", err)
	}
	return nil
}

func isSHA256(d digest.Digest) bool { return d != "" && d.Algorithm() == digest.SHA256 }

func errDiffID(l Layer) error {
	return fmt.Errorf("the uncompressed layer does not have the diff ID %s that its config says: %w", l.DiffID, errdefs.ErrFailedPrecondition)
}

// consume unpacks an uncompressed layer, all of it, and compares it with its diff ID.
func consume(ctx context.Context, l Layer, staged Staged, diff *verifier) error {
	if err := staged.Apply(ctx, diff); err != nil {
		return fmt.Errorf("cannot unpack: %w", err)
	}
	if _, err := io.Copy(io.Discard, diff); err != nil {
		return fmt.Errorf("cannot unpack: %w", err)
	}
	ok, err := diff.verified(l.DiffID)
	if err == nil && !ok {
		err = errDiffID(l)
	}
	return err
}

// verifier counts what is read through it, up to a limit, and hashes it.
type verifier struct {
	r           io.Reader
	verify      digest.Verifier // nil when nobody knows the diff ID, or a recording hashes
	recording   Recording       // nil for none
	left, limit int64
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	if v.left -= int64(n); v.left < 0 {
		return 0, fmt.Errorf("the uncompressed layer is larger than %d bytes: %w", v.limit, errdefs.ErrOutOfRange)
	}
	// Hashes and recordings do not fail.
	if n > 0 && v.recording != nil {
		_, _ = v.recording.Write(p[:n])
	} else if v.verify != nil {
		_, _ = v.verify.Write(p[:n])
	}
	return n, err
}

// verified says, after the end, whether what was read has a diff ID.
func (v *verifier) verified(want digest.Digest) (bool, error) {
	if v.recording != nil {
		got, err := v.recording.DiffID()
		return got == want, err
	}
	return v.verify == nil || v.verify.Verified(), nil
}

// maxWindow bounds the memory of a zstd decoder: 128 MiB is what zstd --long writes.
const maxWindow = 128 << 20

// decompressor tells compression by the first bytes, as other runtimes do, for media types lie; the diff ID tells the truth.
func decompressor(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	magic, err := b.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return inflate.NewReader(b)
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], []byte{0x2a, 0x4d, 0x18}):
		d, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("cannot read zstd: %w", err)
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(b), nil
}

// sendBlob sends a blob of the store into a pipe.
func sendBlob(ctx context.Context, p content.Provider, desc ocispec.Descriptor, to *pipe, progress *Part) error {
	progress.Enter(Unpacking)
	ra, err := p.ReaderAt(ctx, desc)
	if err != nil {
		return fmt.Errorf("cannot open blob %s: %w", desc.Digest, err)
	}
	defer ra.Close()
	r := &counted{r: io.NewSectionReader(ra, 0, ra.Size()), ctx: ctx, progress: progress}
	if err := to.readFrom(r); err != nil {
		return fmt.Errorf("cannot read blob %s: %w", desc.Digest, err)
	}
	return nil
}

// counted reports how far it was read and ends with its context, which it keeps because io.Reader has no place for one.
type counted struct {
	r        io.Reader
	n        int64
	ctx      context.Context
	progress *Part
}

func (c *counted) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.progress.At(c.n)
	return n, err
}
