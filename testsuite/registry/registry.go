// Package registry is an OCI distribution registry in this process, with faults on command: for tests, demo and benchmarks.
//
//	r := registry.Start(t) // listens on 127.0.0.1, ends with the test; outside of tests: registry.New and Listen
//	built := r.Push("library/hello:latest", ociimage.Image{...}) // or an Index, or Built
//	ref := r.Host() + "/library/hello:latest"
//
//	r.Fault(registry.Match{Digest: built.Layers[0].Digest, Times: 2}, registry.Cut(1000)) // the first two are cut short
//	r.Fault(registry.Match{Path: `/manifests/`, Skip: 1}, registry.TooManyRequests(3))    // all but the first
//	r.RequireToken(registry.Token{Username: "u", Password: "p", Uses: 5})
//	...
//	if n := r.Count(registry.Match{Method: "GET", Digest: d}); n != 1 { ... }
//
// Manifests, tags, referrers and uploads are served by go-containerregistry's registry, so skopeo and others can push to
// it too; blobs are served here, with ranges. Everything is in memory and nothing depends on time or chance.
package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/testsuite/ociimage"
)

// Registry is an http.Handler with content and faults. All methods are safe for concurrent use.
type Registry struct {
	library http.Handler
	blobs   *blobs

	mu       sync.Mutex
	faults   []*fault
	requests []*Request
	auth     authenticator
	host     string
	storage  storage

	noReferrers bool

	servers []*http.Server
	serving sync.WaitGroup
}

// New makes an empty registry that nobody serves yet.
func New() *Registry {
	b := &blobs{data: make(map[digest.Digest][]byte)}
	return &Registry{
		blobs: b,
		library: ggcr.New(ggcr.WithBlobHandler(b), ggcr.WithReferrersSupport(true),
			ggcr.Logger(log.New(io.Discard, "", 0))),
	}
}

// T is what Start needs of a *testing.T or *testing.B.
type T interface {
	Helper()
	Fatalf(format string, args ...any)
	Cleanup(func())
}

// Start makes a registry and serves it until the test ends.
func Start(t T) *Registry {
	t.Helper()
	r := New()
	if err := r.Listen("127.0.0.1:0"); err != nil {
		t.Fatalf("cannot start the registry: %v", err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Fatalf("cannot stop the registry: %v", err)
		}
	})
	return r
}

// Listen serves plain HTTP on addr (port 0 for any) until Close.
func (r *Registry) Listen(addr string) error {
	host, err := r.serve(addr, r, nil)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.host = host
	return nil
}

// serve begins to serve h, over TLS when there is a configuration for it.
func (r *Registry) serve(addr string, h http.Handler, conf *tls.Config) (host string, err error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", err
	}
	host = l.Addr().String()
	if conf != nil {
		l = tls.NewListener(l, conf)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	r.mu.Lock()
	r.servers = append(r.servers, srv)
	r.mu.Unlock()
	r.serving.Go(func() { _ = srv.Serve(l) }) // ends by Close
	return host, nil
}

// Close stops serving and cuts all connections.
func (r *Registry) Close() error {
	r.mu.Lock()
	servers := r.servers
	r.servers = nil
	r.mu.Unlock()
	var errs []error
	for _, srv := range servers {
		errs = append(errs, srv.Close())
	}
	r.serving.Wait()
	return errors.Join(errs...)
}

// Down takes the registry away: what is connected is cut, and who connects is refused, until Up.
func (r *Registry) Down() error { return r.Close() }

// Up has the registry listen again where it did before Down. What Redirect and TLS served stays away.
func (r *Registry) Up() error { return r.Listen(r.Host()) }

// WithoutReferrers makes it a registry of before distribution-spec 1.1, which has no referrers API.
func (r *Registry) WithoutReferrers() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noReferrers = true
}

// Host is the address after Listen, such as 127.0.0.1:34567: the first part of references to what is pushed here.
func (r *Registry) Host() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.host
}

// Buildable is an ociimage.Image or ociimage.Index.
type Buildable interface {
	Build() (*ociimage.Built, error)
}

// Push builds an image and stores it as name ("repository:tag"). It panics when the image cannot be built: that is a
// mistake in the test.
func (r *Registry) Push(name string, img Buildable) *ociimage.Built {
	built, err := img.Build()
	if err != nil {
		panic(err)
	}
	r.PushBuilt(name, built)
	return built
}

// PushBuilt stores a built image as name ("repository:tag"). It panics when the registry refuses it.
func (r *Registry) PushBuilt(name string, built *ociimage.Built) {
	repo, tag, ok := strings.Cut(name, ":")
	if !ok {
		tag = "latest"
	}
	for dgst, b := range built.Blobs {
		r.blobs.put(dgst, b.Data)
	}
	for _, desc := range built.Manifests {
		r.PutManifest(repo, desc.Digest.String(), desc.MediaType, built.Blobs[desc.Digest].Data)
	}
	r.PutManifest(repo, tag, built.Root.MediaType, built.Blobs[built.Root.Digest].Data)
}

// PutManifest stores any bytes as a manifest under a tag or digest, not checking that the digest is theirs.
func (r *Registry) PutManifest(repo, target, mediaType string, data []byte) {
	req, err := http.NewRequest(http.MethodPut, "/v2/"+repo+"/manifests/"+target, bytes.NewReader(data))
	if err != nil {
		panic(err)
	}
	req.Header.Set("Content-Type", mediaType)
	rec := &recorder{header: http.Header{}}
	r.library.ServeHTTP(rec, req)
	if rec.status != http.StatusCreated {
		panic(fmt.Sprintf("registry refuses manifest %s of %s: %d %s", target, repo, rec.status, rec.body.String()))
	}
}

// PutBlob stores any bytes under a digest, not checking that it is theirs.
func (r *Registry) PutBlob(dgst digest.Digest, data []byte) { r.blobs.put(dgst, data) }

// RemoveBlob makes a blob unknown.
func (r *Registry) RemoveBlob(dgst digest.Digest) { r.blobs.remove(dgst) }

// Blob is what the registry holds under a digest, nil for nothing.
func (r *Registry) Blob(dgst digest.Digest) []byte {
	data, _ := r.blobs.get(dgst)
	return data
}

// recorder keeps an answer in memory.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(s int)   { r.status = s }
func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.body.Write(p)
}

// blobs is go-containerregistry's storage of blobs, one for all repositories.
type blobs struct {
	mu   sync.RWMutex
	data map[digest.Digest][]byte
}

var (
	_ ggcr.BlobStatHandler   = (*blobs)(nil)
	_ ggcr.BlobPutHandler    = (*blobs)(nil)
	_ ggcr.BlobDeleteHandler = (*blobs)(nil)
)

func (b *blobs) get(dgst digest.Digest) ([]byte, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	data, ok := b.data[dgst]
	return data, ok
}

func (b *blobs) put(dgst digest.Digest, data []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data[dgst] = data
}

func (b *blobs) remove(dgst digest.Digest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.data, dgst)
}

func (b *blobs) Get(_ context.Context, _ string, h v1.Hash) (io.ReadCloser, error) {
	data, ok := b.get(digest.Digest(h.String()))
	if !ok {
		return nil, ggcr.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (b *blobs) Stat(_ context.Context, _ string, h v1.Hash) (int64, error) {
	data, ok := b.get(digest.Digest(h.String()))
	if !ok {
		return 0, ggcr.ErrNotFound
	}
	return int64(len(data)), nil
}

func (b *blobs) Put(_ context.Context, _ string, h v1.Hash, rc io.ReadCloser) error {
	defer rc.Close()
	data, err := io.ReadAll(rc)
	if err != nil {
		return err
	}
	b.put(digest.Digest(h.String()), data)
	return nil
}

func (b *blobs) Delete(_ context.Context, _ string, h v1.Hash) error {
	dgst := digest.Digest(h.String())
	if _, ok := b.get(dgst); !ok {
		return ggcr.ErrNotFound
	}
	b.remove(dgst)
	return nil
}
