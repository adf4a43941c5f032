package engine

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/image/lazyindex"
	"github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/storage"
)

// LazyOptions of an engine. The zero value is what the daemon's configuration has as default.
type LazyOptions struct {
	Mode         string            // LazyAuto when empty
	Images       map[string]string // modes by patterns of names of images without tag, as path.Match has them; the longest that matches counts
	Minimum      int64             // LazyAuto's bytes of a blob, 0 for 1 MiB: a smaller one is here in the time its index takes
	Delay        time.Duration     // from the pull to the background's beginning, 0 for 10 s; below 0 the background does nothing by itself
	Rate         int64             // bytes per second of the background, 0 for as fast as nobody minds
	DockerConfig string            // docker's config.json for pulls whose client gives no credentials
	// Stream serves layers of which nothing is known while they come, instead of pulling them in full first. What is read of them before
	// all is here is not verified.
	Stream bool
}

func (o LazyOptions) withDefaults() LazyOptions {
	if o.Mode == "" {
		o.Mode = LazyAuto
	}
	if o.Minimum == 0 {
		o.Minimum = 1 << 20
	}
	if o.Delay == 0 {
		o.Delay = 10 * time.Second
	}
	return o
}

// lazyPull is what one pull knows of leaving layers where they are. nil leaves none.
type lazyPull struct {
	e      *Engine
	mode   string
	remote registry.Options

	under sync.WaitGroup // locating; ends with the pull's contexts

	mu          sync.Mutex
	located     map[digest.Digest]*located    // by blob
	lookup      *lazyindex.Lookup             // of indexes beside the image; begun by the first layer that needs it
	credentials map[string]storage.Credential // that the pull was asked for
	reasons     map[digest.Digest]string      // by chain ID, why a layer is pulled in full
}

// newLazyPull prepares a pull; it notes the credentials that remote gives, so that a server can renew its tokens when the
// client is gone. The caller closes it.
func (e *Engine) newLazyPull(mode string, remote *registry.Options) *lazyPull {
	p := &lazyPull{e: e, mode: mode, credentials: map[string]storage.Credential{}, reasons: map[digest.Digest]string{}, located: map[digest.Digest]*located{}}
	if ask := remote.Credentials; ask != nil {
		remote.Credentials = func(ctx context.Context, host string) (registry.Credential, error) {
			c, err := ask(ctx, host)
			if err == nil {
				p.mu.Lock()
				p.credentials[host] = storage.Credential(c)
				p.mu.Unlock()
			}
			return c, err
		}
	}
	p.remote = *remote
	return p
}

// begin looks for what is beside the image's manifest, once.
func (p *lazyPull) begin(ctx context.Context, remote *registry.Remote, manifest ocispec.Descriptor) *lazyindex.Lookup {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lookup == nil {
		p.lookup = p.e.indexes.Begin(context.WithoutCancel(ctx), remote, manifest)
	}
	return p.lookup
}

// close ends what is under way.
func (p *lazyPull) close() {
	p.mu.Lock()
	if p.lookup != nil {
		p.lookup.Close()
	}
	p.mu.Unlock()
	p.under.Wait()
}

// source says how to get at a layer from now on.
func (p *lazyPull) source(l image.Layer) storage.Source {
	src := storage.Source{Ref: l.Image, Descriptor: l.Desc, DiffID: l.DiffID, HostsDirs: p.remote.HostsDirs,
		PlainHTTP: p.remote.PlainHTTP, SkipVerify: p.remote.SkipVerify, Header: p.remote.Header}
	if src.HostsDirs == nil {
		src.HostsDirs = p.e.registry.HostsDirs()
	}
	if p.remote.Credentials == nil {
		src.DockerConfig = p.e.lazy.DockerConfig
		return src
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	src.Credentials = maps.Clone(p.credentials)
	return src
}

func (p *lazyPull) refuse(chain digest.Digest, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reasons[chain] = why
}

// reason is why a layer was not pulled lazily; empty when it was, or was not tried.
func (p *lazyPull) reason(chain digest.Digest) string {
	if p == nil {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reasons[chain]
}

// Attach makes an active snapshot that is still empty show a layer that is in a registry. After an error Remove it.
func (s *Snapshots) Attach(ctx context.Context, key string, x storage.LayerIndex, src storage.Source) (storage.Usage, error) {
	driver, ok := s.driver.(storage.Lazy)
	if !ok {
		return storage.Usage{}, fmt.Errorf("snapshotter %s serves no layers that are not here: %w", s.name, errdefs.ErrNotImplemented)
	}
	layer, unlock, err := s.lockActive(ctx, key)
	if err != nil {
		return storage.Usage{}, err
	}
	defer unlock()
	return driver.Attach(ctx, layer, x, src)
}

// tellAttached publishes that a layer is used before it is here.
func (s *Snapshots) tellAttached(l image.Layer, index string) {
	s.e.publish(s.scope.Namespace, "/lazy/attach", LazyAttach{Image: l.Image, Layer: l.Desc.Digest.String(), Snapshot: l.Chain.String(), Index: index})
}

func (s *stagedLayer) attach(ctx context.Context, x storage.LayerIndex, src storage.Source) (err error) {
	if s.key != "" {
		s.usage, err = s.layers.s.Attach(ctx, s.key, x, src)
		s.index = x.Kind
	}
	return err
}
