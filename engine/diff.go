package engine

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/internal/changeset"
	"github.com/slipwayd/slipway/internal/mount"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/storage"
)

// uncompressedLabel holds the digest of a compressed layer's tar.
const uncompressedLabel = "containerd.io/uncompressed"

// Apply unpacks the layer blob desc onto mounts and answers the descriptor of its uncompressed tar. Mounts of an empty
// snapshot of ours go to its driver; others are mounted out of sight and written into. NotImplemented when desc is of no
// layer type.
func (e *Engine) Apply(ctx context.Context, s Scope, desc ocispec.Descriptor, mounts []storage.Mount) (applied ocispec.Descriptor, err error) {
	if !isLayer(desc.MediaType) {
		return applied, fmt.Errorf("media type %q is not one of a layer: %w", desc.MediaType, errdefs.ErrNotImplemented)
	}
	blob, err := e.Content(s).ReaderAt(ctx, desc)
	if err != nil {
		return applied, err
	}
	defer e.memory.work()()
	defer func() { err = errors.Join(err, blob.Close()) }()
	tar, err := decompress(io.NewSectionReader(blob, 0, blob.Size()))
	if err != nil {
		return applied, fmt.Errorf("cannot read layer %s: %w", desc.Digest, err)
	}
	defer tar.Close()
	sum := digest.SHA256.Digester()
	counted := &countingReader{r: io.TeeReader(tar, sum.Hash())}
	if err := e.applyTo(ctx, s, mounts, counted); err != nil {
		return applied, fmt.Errorf("cannot apply layer %s: %w", desc.Digest, err)
	}
	// The digest is of the whole stream, and a tar may end before its stream does.
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return applied, fmt.Errorf("cannot read layer %s: %w", desc.Digest, err)
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: sum.Digest(), Size: counted.n}, nil
}

func (e *Engine) applyTo(ctx context.Context, s Scope, mounts []storage.Mount, tar *countingReader) error {
	if len(mounts) == 0 {
		return fmt.Errorf("no mounts are given: %w", errdefs.ErrInvalidArgument)
	}
	snaps, key, err := e.snapshotOf(ctx, s, mounts)
	if err != nil {
		return err
	}
	var full error
	if key != "" {
		// FailedPrecondition before anything is read: not empty any more, so it takes the way of foreign mounts.
		if _, full = snaps.Apply(ctx, key, tar); tar.n > 0 || !errdefs.IsFailedPrecondition(full) {
			return full
		}
	}
	err = mount.Temp(e.scratch(), mounts, func(root string) error {
		if err := changeset.Apply(ctx, root, tar, changeset.Options{}); err != nil {
			return err
		}
		return changeset.Sync(root)
	})
	if full != nil && errdefs.IsNotImplemented(err) { // as on Windows, which mounts for no one
		return full
	}
	return err
}

// scratch is where file systems are mounted out of sight for a moment. A start takes down what a crash left mounted there.
func (e *Engine) scratch() string { return filepath.Join(e.state, "diff") }

// Look mounts what a snapshot answered, out of sight and for as long as do runs. The next start takes down what a crash leaves.
func (s *Snapshots) Look(mounts []storage.Mount, do func(path string) error) error {
	return mount.Temp(s.e.scratch(), mounts, do)
}

// restoreScratch makes the directory and takes down what a crash left mounted in it.
func (e *Engine) restoreScratch() error {
	if err := os.MkdirAll(e.scratch(), 0o700); err != nil {
		return err
	}
	left, err := os.ReadDir(e.scratch())
	if err != nil {
		return err
	}
	for _, d := range left {
		path := filepath.Join(e.scratch(), d.Name())
		// Remove, not RemoveAll: should the unmount fail, nothing of the client's may be deleted.
		if err := errors.Join(mount.Unmount(path), os.Remove(path)); err != nil {
			return fmt.Errorf("cannot take down %s: %w", path, err)
		}
	}
	return nil
}

// snapshotOf answers the active snapshot or view of the namespace that mounts came from, and "" when they are none of ours.
func (e *Engine) snapshotOf(ctx context.Context, s Scope, mounts []storage.Mount) (found *Snapshots, key string, err error) {
	if len(mounts) == 0 {
		return nil, "", nil
	}
	text := fmt.Sprint(mounts)
	for name, driver := range e.drivers {
		snaps := &Snapshots{e: e, scope: s, name: name, driver: driver}
		err := snaps.Walk(ctx, func(page []metadata.Snapshot) error {
			for _, snap := range page {
				if snap.Kind == storage.Active && !names(text, snap.LayerID) {
					continue
				}
				theirs, err := snaps.Mounts(ctx, snap.Key)
				if err != nil && !errdefs.IsNotFound(err) {
					return err
				}
				if reflect.DeepEqual(theirs, mounts) {
					found, key = snaps, snap.Key
					return errFound
				}
			}
			return nil
		}, "kind==active", "kind==view")
		if err != nil && !errors.Is(err, errFound) {
			return nil, "", err
		}
		if found != nil {
			return found, key, nil
		}
	}
	return nil, "", nil
}

// names tells whether text has id as a whole word. The mounts of every driver name a layer with content, so that the driver
// need not be asked about all others.
func names(text, id string) bool {
	for rest := text; ; {
		_, after, found := strings.Cut(rest, id)
		if !found {
			return false
		}
		at := len(text) - len(after) - len(id)
		if (at == 0 || !isIDByte(text[at-1])) && (after == "" || !isIDByte(after[0])) {
			return true
		}
		rest = after
	}
}

// isIDByte is true for what layer ids are made of (storage.Layer).
func isIDByte(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

// errFound ends a walk.
var errFound = errors.New("found")

// DiffOptions says what Diff makes of a difference.
type DiffOptions struct {
	MediaType string // of the blob, empty for a gzipped OCI layer; it decides the compression
	Ref       string // of the ingest, empty for a name of its own
	Labels    map[string]string
}

// Diff writes the difference of two file systems as a layer blob: what right changes against left (nothing mounted for an
// empty one).
func (e *Engine) Diff(ctx context.Context, s Scope, left, right []storage.Mount, o DiffOptions) (desc ocispec.Descriptor, err error) {
	mediaType := cmp.Or(o.MediaType, ocispec.MediaTypeImageLayerGzip)
	if !isLayer(mediaType) {
		return desc, fmt.Errorf("media type %q is not one of a layer: %w", mediaType, errdefs.ErrNotImplemented)
	}
	defer e.memory.work()()
	w, err := e.Content(s).Open(ctx, cmp.Or(o.Ref, "diff-"+rand.Text()), ocispec.Descriptor{})
	if err != nil {
		return desc, err
	}
	defer func() {
		if err != nil {
			// A difference is made anew, never resumed.
			err = errors.Join(err, w.Close())
			_ = e.Content(s).Abort(context.WithoutCancel(ctx), w.rec.Ref)
		}
	}()
	if err := w.Truncate(0); err != nil {
		return desc, err
	}
	buffered := bufio.NewWriterSize(w, 256<<10)
	compressed, err := compress(mediaType, buffered)
	if err != nil {
		return desc, err
	}
	sum := digest.SHA256.Digester()
	err = e.diffTo(ctx, s, left, right, io.MultiWriter(compressed, sum.Hash()))
	if err = errors.Join(err, compressed.Close(), buffered.Flush()); err != nil {
		return desc, fmt.Errorf("cannot make a layer of the difference: %w", err)
	}
	return w.commitDiff(ctx, mediaType, sum.Digest(), o.Labels)
}

// commitDiff ends Diff's ingest and answers its descriptor.
func (w *Writer) commitDiff(ctx context.Context, mediaType string, diffID digest.Digest, labels map[string]string) (ocispec.Descriptor, error) {
	st, err := w.Status()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: w.Digest(), Size: st.Offset}
	all := map[string]string{uncompressedLabel: diffID.String()}
	for k, v := range labels {
		all[k] = v
	}
	if err := w.CommitLabels(ctx, desc.Size, desc.Digest, all); err != nil && !errdefs.IsAlreadyExists(err) {
		return ocispec.Descriptor{}, err
	}
	return desc, nil
}

func (e *Engine) diffTo(ctx context.Context, s Scope, left, right []storage.Mount, w io.Writer) error {
	done, err := e.diffLayer(ctx, s, left, right, w)
	if done || err != nil {
		return err
	}
	return mount.Temp(e.scratch(), left, func(lower string) error {
		return mount.Temp(e.scratch(), right, func(upper string) error {
			return changeset.DiffTrees(ctx, lower, upper, w, changeset.Options{})
		})
	})
}

// diffLayer takes the short way when right is a snapshot of ours and left is what it stands on: its driver knows what the
// layer adds without comparing trees.
func (e *Engine) diffLayer(ctx context.Context, s Scope, left, right []storage.Mount, w io.Writer) (done bool, err error) {
	snaps, key, err := e.snapshotOf(ctx, s, right)
	if err != nil || key == "" {
		return false, err
	}
	layer, err := snaps.layer(ctx, key)
	if err != nil || layer.Kind != storage.Active {
		return false, err
	}
	if len(left) > 0 {
		lsnaps, lkey, err := e.snapshotOf(ctx, s, left)
		if err != nil || lkey == "" || lsnaps.name != snaps.name {
			return false, err
		}
		base, err := snaps.layer(ctx, lkey)
		if err != nil || base.Kind != storage.View || !reflect.DeepEqual(base.Parents, layer.Parents) {
			return false, err
		}
	} else if len(layer.Parents) > 0 {
		return false, nil
	}
	unlock, err := snaps.lock(ctx, key)
	if err != nil {
		return false, err
	}
	defer unlock()
	return true, snaps.driver.Diff(ctx, layer, w)
}
