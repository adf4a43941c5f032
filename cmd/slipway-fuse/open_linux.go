package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/image/reference"
	"github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/storage/lazyfuse/cache"
	"github.com/slipwayd/slipway/storage/lazyfuse/fetch"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
	"github.com/slipwayd/slipway/storage/lazyfuse/layer"
	"github.com/slipwayd/slipway/storage/lazyfuse/server"
	"github.com/slipwayd/slipway/storage/lazyfuse/state"
	"github.com/slipwayd/slipway/storage/lazyfuse/stream"
)

// unitMemory and unitDisk are how many bytes of decoded units are kept, for all layers together.
const (
	unitMemory = 4 << 20
	unitDisk   = 1 << 30
)

// opener makes layers of their state directories. The layers share its cache and connections.
type opener struct {
	cache     *cache.Cache
	scheduler *fetch.Scheduler
	client    *registry.Client
	units     *layer.Units
	opts      options
	log       *slog.Logger
}

func newOpener(opts options, log *slog.Logger) (*opener, error) {
	if err := os.MkdirAll(opts.cache, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the lazy cache: %w", err)
	}
	c, err := cache.Open(opts.cache, cache.Options{Quota: opts.quota, Idle: opts.idle, Failed: func(err error) { log.Error("the lazy cache", "error", err) }})
	if err != nil {
		return nil, err
	}
	units, err := layer.NewUnits(unitMemory, opts.cache, unitDisk)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	// The scheduler retries, orders and splits ranges, so the client does none of that.
	client := registry.New(registry.Config{UserAgent: "slipway/" + version, Streams: 1, Retries: -1})
	scheduler := fetch.New(fetch.Options{Deadline: opts.deadline, MinRange: minRange, Memory: rangeMemory, Dir: opts.cache, Disk: opts.quota, Room: c.Room})
	return &opener{cache: c, scheduler: scheduler, client: client, units: units, opts: opts, log: log}, nil
}

// fetched is how many bytes have come from registries.
func (o *opener) fetched() int64 {
	st := o.scheduler.Stats()
	return st.Demand.Bytes + st.Profile.Bytes + st.Background.Bytes
}

// Close ends reads that are under way and makes the cache durable.
func (o *opener) Close() error {
	return errors.Join(o.scheduler.Close(), o.cache.Close(), o.units.Close(), o.client.Close())
}

// detail is what status says of what the layers share.
func (o *opener) detail() any {
	return struct {
		Cache cache.Stats `json:"cache"`
		Fetch fetch.Stats `json:"fetch"`
	}{o.cache.Stats(), o.scheduler.Stats()}
}

// open implements server.OpenFunc.
func (o *opener) open(id, dir string) (server.Layer, error) {
	src, err := state.Read(dir)
	if err != nil {
		return nil, err
	}
	x, err := state.Index(dir, src)
	if err != nil {
		return nil, err
	}
	ref, err := reference.Parse(src.Ref)
	if err != nil {
		return nil, err
	}
	remote, err := o.client.Remote(ref, registry.Options{
		Credentials: credentials(dir), Header: src.Header, PlainHTTP: src.PlainHTTP, SkipVerify: src.SkipVerify,
		HostsDirs: src.HostsDirs, NeedRanges: true})
	if err != nil {
		return nil, err
	}
	from := source{local: filepath.Join(dir, state.BlobFile), remote: remote}
	blob := o.scheduler.Blob(ref.Host, src.Descriptor, from)
	if src.Kind == index.Stream {
		l, err := stream.New(stream.Config{ID: id, Root: x, Desc: src.Descriptor, Blob: blob, Files: state.Files(dir), Dir: o.opts.cache,
			State: o.opts.state, Room: o.cache.Room, Deadline: o.opts.deadline, Log: o.log})
		if err != nil {
			blob.Close()
			return nil, err
		}
		return l, nil
	}
	return layer.New(layer.Config{Index: x, Digest: src.Document, Cache: o.cache, Units: o.units, Own: src.Own, Blob: blob}), nil
}

// credentials looks into the layer's state each time that a registry asks: a client may have given others since.
func credentials(dir string) registry.CredentialFunc {
	return func(ctx context.Context, host string) (registry.Credential, error) {
		s, err := state.Read(dir)
		if err != nil {
			return registry.Credential{}, err
		}
		if s.DockerConfig != "" {
			return registry.DockerCredentials(s.DockerConfig)(ctx, host)
		}
		return registry.Credential(s.Credentials[host]), nil
	}
}

// source delivers a layer's blob: from the disk once it has arrived, until then from its registry.
type source struct {
	local  string
	remote content.Fetcher
}

// Here implements fetch.Local.
func (s source) Here() bool {
	_, err := os.Lstat(s.local)
	return err == nil
}

// Fetch implements content.Fetcher.
func (s source) Fetch(ctx context.Context, desc ocispec.Descriptor, offset, length int64) (io.ReadCloser, error) {
	f, err := os.Open(s.local)
	if errors.Is(err, os.ErrNotExist) {
		return s.remote.Fetch(ctx, desc, offset, length)
	}
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, offset, length), f}, nil
}
