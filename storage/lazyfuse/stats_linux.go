package lazyfuse

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/storage/lazyfuse/cache"
	"github.com/slipwayd/slipway/storage/lazyfuse/fetch"
	"github.com/slipwayd/slipway/storage/lazyfuse/layer"
	"github.com/slipwayd/slipway/storage/lazyfuse/server/control"
)

// Busy implements storage.Lazy.
func (d *Driver) Busy(ctx context.Context) bool {
	detail, err := d.detail(ctx)
	return err == nil && detail.Fetch.Urgent > 0
}

// detail is what slipway-fuse tells of what its layers share.
type detail struct {
	Fetch fetch.Stats
	Cache cache.Stats
}

func (d *Driver) detail(ctx context.Context) (shared detail, err error) {
	stats, err := d.client.Stats(ctx)
	if err == nil {
		err = json.Unmarshal(stats.Detail, &shared)
	}
	return shared, err
}

// LazyStats implements storage.Lazy.
func (d *Driver) LazyStats(ctx context.Context) (storage.LazyStats, error) {
	if len(d.all()) == 0 && !d.running() {
		return storage.LazyStats{}, fmt.Errorf("no FUSE server runs: %w", errdefs.ErrUnavailable)
	}
	s, err := d.detail(ctx)
	if err != nil {
		return storage.LazyStats{}, err
	}
	f, c := s.Fetch, s.Cache
	return storage.LazyStats{
		DemandBytes: f.Demand.Bytes, ProfileBytes: f.Profile.Bytes, Requests: f.Demand.Requests + f.Profile.Requests + f.Background.Requests,
		Failures:   f.Demand.Failures + f.Profile.Failures + f.Background.Failures,
		CacheBytes: c.Bytes, CacheIdle: c.Idle, CacheEvicted: c.Evicted, CacheRefused: c.Refused,
	}, nil
}

// Lazies implements storage.Lazy, the oldest layer first. When the server does not answer, counts are zero.
func (d *Driver) Lazies(ctx context.Context, detail bool) ([]storage.LazyLayer, error) {
	var out []storage.LazyLayer
	for _, s := range d.all() {
		s.mu.Lock()
		out = append(out, storage.LazyLayer{ID: s.id, Source: s.state.Source, Kind: string(s.state.Kind), Origin: s.state.Origin,
			AttachedAt: s.state.AttachedAt, Filled: s.filled, FileBytes: s.state.FileBytes})
		s.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b storage.LazyLayer) int {
		return cmp.Or(a.AttachedAt.Compare(b.AttachedAt), cmp.Compare(a.ID, b.ID))
	})
	if !detail || len(out) == 0 || !d.running() {
		return out, ctx.Err()
	}
	have, err := d.client.Layers(ctx)
	if err != nil {
		return out, ctx.Err()
	}
	for _, l := range have {
		if i := slices.IndexFunc(out, func(o storage.LazyLayer) bool { return o.ID == l.ID }); i >= 0 {
			count(&out[i], l)
		}
	}
	return out, nil
}

func count(to *storage.LazyLayer, from control.Layer) {
	to.Served, to.Reads, to.ReadErrors, to.ReadBytes = true, from.Reads, from.ReadErrors, from.ReadBytes
	var d layer.Detail
	if json.Unmarshal(from.Detail, &d) != nil {
		return // nobody has used the layer since the server started
	}
	to.DemandBytes, to.ProfileBytes, to.WaitedReads, to.CachedBytes = d.Demand, d.Profile, d.Waited, d.Cached
}
