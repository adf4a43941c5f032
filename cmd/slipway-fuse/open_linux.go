package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image/reference"
	"github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/storage/lazyfuse/cache"
	"github.com/slipwayd/slipway/storage/lazyfuse/fetch"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
	"github.com/slipwayd/slipway/storage/lazyfuse/layer"
	"github.com/slipwayd/slipway/storage/lazyfuse/server"
)

// unitMemory is how many bytes of decoded units are kept, for all layers together.
const unitMemory = 16 << 20

// source is layer.json in a layer's state directory: where its blob is, and how to get at it. It may hold a secret, so it is
// for root alone. Beside it is the file "index", as index.Marshal writes it.
type source struct {
	Ref        string             `json:"ref"`        // the image, whose repository has the blob
	Descriptor ocispec.Descriptor `json:"descriptor"` // of the blob
	Own        bool               `json:"own"`        // this host made the index and checked the layer by its digest
	HostsDirs  []string           `json:"hostsDirs,omitempty"`
	PlainHTTP  bool               `json:"plainHTTP,omitempty"`
	SkipVerify bool               `json:"skipVerify,omitempty"`
	// Credentials by "host[:port]" of the registry or mirror that asks.
	Credentials map[string]registry.Credential `json:"credentials,omitempty"`
	Docker      string                         `json:"dockerConfig,omitempty"` // or docker's config.json to look in, anew for each token
}

// opener makes layers of their state directories. The layers share its cache and connections.
type opener struct {
	cache     *cache.Cache
	scheduler *fetch.Scheduler
	client    *registry.Client
	units     *layer.Units
}

func newOpener(dir string, log *slog.Logger) (*opener, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the lazy cache: %w", err)
	}
	c, err := cache.Open(dir, cache.Options{Failed: func(err error) { log.Error("the lazy cache", "error", err) }})
	if err != nil {
		return nil, err
	}
	// The scheduler retries, orders and splits ranges, so the client does none of that.
	client := registry.New(registry.Config{UserAgent: "slipway/" + version, Streams: 1, Retries: -1})
	return &opener{cache: c, scheduler: fetch.New(fetch.Options{}), client: client, units: layer.NewUnits(unitMemory)}, nil
}

// Close ends reads that are under way and makes the cache durable.
func (o *opener) Close() error {
	return errors.Join(o.scheduler.Close(), o.cache.Close(), o.client.Close())
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
	data, err := readState(dir, "layer.json")
	if err != nil {
		return nil, err
	}
	var src source
	if err := json.Unmarshal(data, &src); err != nil {
		return nil, fmt.Errorf("cannot read layer.json: %v: %w", err, errdefs.ErrDataLoss)
	}
	document, err := readState(dir, "index")
	if err != nil {
		return nil, err
	}
	x, err := index.Parse(document, index.Limits{})
	if err != nil {
		return nil, err
	}
	if x.BlobSize() != src.Descriptor.Size {
		return nil, fmt.Errorf("the index is of a blob of %d bytes, not of %s with %d: %w", x.BlobSize(), src.Descriptor.Digest, src.Descriptor.Size, errdefs.ErrDataLoss)
	}
	ref, err := reference.Parse(src.Ref)
	if err != nil {
		return nil, err
	}
	remote, err := o.client.Remote(ref, registry.Options{
		Credentials: src.credentials(), PlainHTTP: src.PlainHTTP, SkipVerify: src.SkipVerify, HostsDirs: src.HostsDirs})
	if err != nil {
		return nil, err
	}
	return layer.New(layer.Config{Index: x, Digest: digest.FromBytes(document), Cache: o.cache, Units: o.units, Own: src.Own,
		Blob: newBlob(func() *fetch.Blob { return o.scheduler.Blob(ref.Host, src.Descriptor, remote) })}), nil
}

func (s *source) credentials() registry.CredentialFunc {
	if s.Docker != "" {
		return registry.DockerCredentials(s.Docker)
	}
	return func(_ context.Context, host string) (registry.Credential, error) { return s.Credentials[host], nil }
}

// readState reads a file of a layer's state directory.
func readState(dir, name string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	return data, err
}
