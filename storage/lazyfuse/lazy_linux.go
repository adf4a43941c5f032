package lazyfuse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
	"github.com/slipwayd/slipway/storage/lazyfuse/state"
)

func newState(parsed *index.Index, x storage.LayerIndex, src storage.Source) state.Layer {
	return state.Layer{Source: src, Own: x.Own, Kind: parsed.Kind(), Origin: x.Origin,
		Document: digest.FromBytes(x.Document), Usage: usage(parsed), FileBytes: fileBytes(parsed), AttachedAt: time.Now().UTC()}
}

func fileBytes(x *index.Index) (sum int64) {
	for i := range x.Len() {
		if n := x.Node(i); n.Mode.IsRegular() {
			sum += n.Size
		}
	}
	return sum
}

// Available implements storage.Lazy.
func (d *Driver) Available(ctx context.Context) error { return d.ensure(ctx) }

// maxTables is how many bytes of tables of contents are kept for layers that are pulled again.
const maxTables = 128 << 20

// Locate implements storage.Lazy. It is one request where the table of contents and its place in the blob are in the last
// index.TailSize bytes, or the annotations tell the place; of one byte for a table that is kept: it shows that the registry has the
// blob, and serves ranges.
func (d *Driver) Locate(ctx context.Context, desc ocispec.Descriptor, src content.Fetcher) (storage.LayerIndex, error) {
	if !index.Promised(desc.Annotations) {
		return storage.LayerIndex{}, fmt.Errorf("the image names no table of contents for it: %w", errdefs.ErrNotFound)
	}
	if desc.Size <= index.TailSize {
		return storage.LayerIndex{}, fmt.Errorf("with %d bytes it is here as soon as its table of contents: %w", desc.Size, errdefs.ErrOutOfRange)
	}
	kept := tables{filepath.Join(d.cfg.Cache, "tables"), maxTables}
	if x, ok := kept.get(desc); ok {
		_, err := read(ctx, desc, src, desc.Size-1, 1)
		return located(x), err
	}
	t, table, err := find(ctx, desc, src)
	if err != nil {
		return storage.LayerIndex{}, err
	}
	x, err := t.Parse(table, desc.Size, index.Limits{})
	if err != nil {
		return storage.LayerIndex{}, err
	}
	d.warn(ctx, "a layer's table of contents is not kept for the next pull", kept.put(desc, t, table))
	return located(x), nil
}

func located(x *index.Index) storage.LayerIndex {
	return storage.LayerIndex{Document: x.Marshal(), Kind: string(x.Kind()), Origin: "the layer itself"}
}

// find fetches a layer's table of contents.
func find(ctx context.Context, desc ocispec.Descriptor, src content.Fetcher) (t index.Table, table []byte, err error) {
	var tail []byte
	begin := desc.Size
	t, err = index.Locate(desc.Annotations, nil, desc.Size)
	if errdefs.IsNotFound(err) {
		begin = max(0, desc.Size-index.TailSize)
		if tail, err = read(ctx, desc, src, begin, desc.Size-begin); err != nil {
			return t, nil, err
		}
		t, err = index.Locate(desc.Annotations, tail, desc.Size)
	}
	if err != nil {
		return t, nil, err
	}
	if t.Offset >= begin {
		return t, tail[t.Offset-begin:][:t.Length], nil
	}
	table, err = read(ctx, desc, src, t.Offset, t.Length)
	return t, table, err
}

func read(ctx context.Context, desc ocispec.Descriptor, src content.Fetcher, off, length int64) ([]byte, error) {
	r, err := src.Fetch(ctx, desc, off, length)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data := make([]byte, length)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("cannot read the table of contents of %s: %w", desc.Digest, err)
	}
	return data, nil
}

// Blob implements storage.Lazy.
func (d *Driver) Blob(ctx context.Context, l storage.Layer, off int64) (io.ReadCloser, error) {
	if s := d.lookup(l.ID); s == nil || s.isFilled() {
		return nil, notServed(l.ID)
	}
	if err := d.ready(ctx, append([]string{l.ID}, l.Parents...)); err != nil {
		return nil, err
	}
	return d.client.Blob(ctx, l.ID, off)
}

// Fill implements storage.Lazy. NotFound when the layer is not on its way.
func (d *Driver) Fill(ctx context.Context, l storage.Layer, diff io.Reader) (storage.Usage, error) {
	if s := d.lookup(l.ID); s == nil || s.isFilled() {
		return storage.Usage{}, notServed(l.ID)
	}
	// What lies below must be settled, and seen.
	if err := d.ready(ctx, append([]string{l.ID}, l.Parents...)); err != nil {
		return storage.Usage{}, err
	}
	if len(d.comingOf(l.Parents)) > 0 {
		return d.Driver.Fill(ctx, l, diff, func(ctx context.Context) error { return d.awaitHere(ctx, l.Parents) })
	}
	return d.Driver.Fill(ctx, l, diff, nil)
}

// Arrive implements storage.Lazy.
func (d *Driver) Arrive(_ context.Context, id string) error {
	s := d.lookup(id)
	if s == nil {
		return notServed(id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err := d.Driver.Exchange(id)
	if _, link := d.Driver.Served(id); !link {
		s.arrived()
	}
	return err
}

func notServed(id string) error {
	return fmt.Errorf("layer %s is not on its way: %w", id, errdefs.ErrNotFound)
}

// Keep implements storage.Lazy.
func (d *Driver) Keep(_ context.Context, id, file string) error {
	s := d.lookup(id)
	if s == nil {
		return notServed(id)
	}
	err := os.Link(file, filepath.Join(s.dir, state.BlobFile))
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("cannot keep the blob of lazy layer %s: %w", id, err)
	}
	return nil
}

// Renew implements storage.Lazy. The server looks for credentials each time that it needs them.
func (d *Driver) Renew(_ context.Context, id string, credentials map[string]storage.Credential) error {
	s := d.lookup(id)
	if s == nil {
		return notServed(id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.state
	next.Credentials, next.DockerConfig = credentials, ""
	if err := state.Rewrite(s.dir, next); err != nil {
		return fmt.Errorf("cannot renew the credentials of lazy layer %s: %w", id, err)
	}
	s.state.Source = next.Source
	return nil
}

// upkeepEvery is how often the driver looks whether the keeper lives and what may be let go.
const upkeepEvery = 5 * time.Second

// upkeep has the server run as long as there is something to serve, and lets go of layers that have arrived and that nothing is
// mounted on any more.
func (d *Driver) upkeep(ctx context.Context) {
	if len(d.all()) > 0 {
		d.resume(ctx)
	}
	tick := time.NewTicker(upkeepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if len(d.all()) == 0 {
			continue
		}
		if !d.running() {
			d.warn(ctx, "cannot start the FUSE server again", d.ensure(ctx))
		}
		d.warn(ctx, "cannot let go of layers that have arrived", d.sweep(ctx))
	}
}

func (d *Driver) warn(ctx context.Context, what string, err error) {
	if err != nil && ctx.Err() == nil {
		d.cfg.Log.Warn(what, "err", err)
	}
}

// resume starts the server, or finds it, and has it drop layers that are no more. Layers that it does not know, after a
// reboot, are attached when they are mounted.
func (d *Driver) resume(ctx context.Context) {
	if err := d.ensure(ctx); err != nil {
		d.warn(ctx, "images that have not arrived cannot be used", err)
		return
	}
	have, err := d.client.Layers(ctx)
	if err != nil {
		d.warn(ctx, "cannot ask the FUSE server for its layers", err)
		return
	}
	for _, l := range have {
		if d.lookup(l.ID) != nil {
			continue
		}
		if used, err := d.mounted(l.ID); err != nil || used[l.ID] {
			d.warn(ctx, "a layer without a record stays, it is mounted", err)
			continue
		}
		d.warn(ctx, "cannot drop a layer without a record", d.detach(ctx, l.ID))
	}
}

// sweep lets go of layers that have arrived: when nothing is mounted on them, they are ordinary.
func (d *Driver) sweep(ctx context.Context) error {
	var ids []string
	for _, s := range d.all() {
		if s.isFilled() {
			ids = append(ids, s.id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	used, err := d.mounted(ids...)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		if s := d.lookup(id); s != nil && !used[id] {
			errs = append(errs, d.release(ctx, s))
		}
	}
	return errors.Join(errs...)
}

func (d *Driver) release(ctx context.Context, s *served) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return nil
	}
	if err := d.letGo(ctx, s); err != nil {
		return err
	}
	return os.RemoveAll(s.dir)
}
