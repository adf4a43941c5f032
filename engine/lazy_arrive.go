package engine

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/slipwayd/slipway/storage"
)

// arrival is an image.Staged for a layer that is served: what is unpacked takes its place.
type arrival struct {
	e             *Engine
	driver        storage.Lazy
	layer         storage.Layer
	source        storage.Source
	parent, chain string
	sum           hash.Hash // of the uncompressed layer, where only the chain ID tells what it should be
	// measured records what the layer takes, if nothing told that before; else it is nil.
	measured func(ctx context.Context, u storage.Usage) error
	usage    storage.Usage
}

func (a *arrival) Apply(ctx context.Context, diff io.Reader) (err error) {
	if a.source.DiffID == "" {
		a.sum = sha256.New()
		diff = io.TeeReader(diff, a.sum)
	}
	if a.usage, err = a.driver.Fill(ctx, a.layer, diff); err != nil || a.sum == nil {
		return err
	}
	_, err = io.Copy(io.Discard, diff)
	return err
}

// Commit has the server take what it misses from the blob, which is here now, and then puts the files in place.
func (a *arrival) Commit(ctx context.Context) error {
	if a.sum != nil {
		chain := []digest.Digest{digest.NewDigest(digest.SHA256, a.sum)}
		if a.parent != "" {
			chain = append([]digest.Digest{digest.Digest(a.parent)}, chain...)
		}
		if got := identity.ChainID(chain); got.String() != a.chain {
			return fmt.Errorf("the uncompressed layer gives snapshot %s, not %s: %w", got, a.chain, errdefs.ErrFailedPrecondition)
		}
	}
	if files, ok := a.e.blobs.(interface {
		Path(digest.Digest) (string, error)
	}); ok {
		file, err := files.Path(a.source.Descriptor.Digest)
		if err == nil {
			err = a.driver.Keep(ctx, a.layer.ID, file)
		}
		if err != nil {
			a.e.log.Warn("what is mounted goes on reading from the registry", "layer", a.source.Descriptor.Digest, "err", err)
		}
	}
	if a.measured != nil { // before it is here: a crash in between has it filled once more
		if err := a.measured(ctx, a.usage); err != nil {
			return err
		}
	}
	return a.driver.Arrive(ctx, a.layer.ID)
}

// Abort leaves what was unpacked for the next try, or the next start, to remove.
func (a *arrival) Abort(context.Context) error { return nil }
