package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/slipwayd/slipway/image/hosts"
)

// accept lists the manifests we ask for. Schema 1 is among them so that a registry that has nothing else says so, and the
// refusal can say why.
var accept = strings.Join([]string{
	ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest,
	"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.1", "*/*;q=0.05",
}, ", ")

// each calls fn for the hosts that can do c, beginning with number first, until it is nil for one. A host that fails in a
// way that may pass is tried again, after the others and after a pause; a host that fails for good is not.
func (r *Remote) each(ctx context.Context, c hosts.Capability, first, retries int, fn func(*endpoint) error) error {
	var live []*endpoint
	for i := range r.endpoints {
		if e := r.endpoints[(first+i)%len(r.endpoints)]; e.Has(c) {
			live = append(live, e)
		}
	}
	if len(live) == 0 {
		return fmt.Errorf("hosts.toml of %s has no host for this: %w", r.ref.Host, errdefs.ErrFailedPrecondition)
	}
	for round := 0; ; round++ {
		var again []*endpoint
		var errs []error
		var wait time.Duration
		for _, e := range live {
			err := fn(e)
			if err == nil {
				return nil
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			errs = append(errs, explain(err, e.URL.Host))
			if after, ok := transient(err); ok {
				again = append(again, e)
				wait = max(wait, min(after, r.config.MaxRetryAfter))
			}
		}
		if len(again) == 0 || round >= retries {
			return summary(errs)
		}
		live = again
		if err := sleep(ctx, max(wait, r.backoff(round))); err != nil {
			return err
		}
	}
}

// summary is the error of the last host, which is the registry itself, with what its mirrors said. Only its kind counts.
func summary(errs []error) error {
	last := errs[len(errs)-1]
	if len(errs) == 1 {
		return last
	}
	var others []string
	for _, e := range errs[:len(errs)-1] {
		others = append(others, e.Error())
	}
	return fmt.Errorf("%w (before that: %s)", last, strings.Join(others, "; "))
}

// backoff is the pause after a round, of which a random half is left out so that clients do not come in step.
func (r *Remote) backoff(round int) time.Duration {
	d := min(r.config.Backoff<<min(round, 10), 25*r.config.Backoff)
	return d/2 + rand.N(d/2+1)
}

// request makes a request for path below the repository ("/manifests/x").
func (r *Remote) request(ctx context.Context, e *endpoint, method, path string, body io.Reader, actions ...string) (*http.Request, error) {
	u := *e.URL
	u.Path += e.repo + path
	if e.ns != "" {
		u.RawQuery = url.Values{"ns": {e.ns}}.Encode()
	}
	if len(actions) == 0 {
		actions = []string{auth.ActionPull}
	}
	ctx = auth.AppendScopes(ctx, auth.ScopeRepository(r.ref.Repository, actions...))
	return http.NewRequestWithContext(ctx, method, u.String(), body)
}

// do sends a request; any status but those in want is an error.
func (e *endpoint) do(req *http.Request, want ...int) (*http.Response, error) {
	return expect(e.http, req, want)
}

// doer is a client of HTTP, with or without credentials.
type doer interface {
	Do(*http.Request) (*http.Response, error)
}

func expect(c doer, req *http.Request, want []int) (*http.Response, error) {
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(want, resp.StatusCode) {
		return nil, newStatusError(resp)
	}
	return resp, nil
}

// Resolve finds the descriptor of the remote's name: the manifest that its digest names, or that its tag names now.
// NotFound when there is none.
func (r *Remote) Resolve(ctx context.Context) (ocispec.Descriptor, error) {
	capability := hosts.Pull | hosts.Resolve
	if r.ref.Digest != "" {
		capability = hosts.Pull
	}
	var desc ocispec.Descriptor
	err := r.each(ctx, capability, 0, min(2, r.config.Retries), func(e *endpoint) error {
		d, err := r.head(ctx, e, r.ref.Object())
		desc = d
		return err
	})
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("cannot resolve %s: %w", r.ref, err)
	}
	return desc, nil
}

// maxManifest bounds a manifest whose size nobody has told us, in bytes (distribution-spec, "Pushing Manifests").
const maxManifest = 4 << 20

// head asks for a manifest's descriptor with HEAD, which registries do not count as a pull, and with GET where the answer to
// HEAD does not say enough.
func (r *Remote) head(ctx context.Context, e *endpoint, object string) (ocispec.Descriptor, error) {
	req, err := r.request(ctx, e, http.MethodHead, "/manifests/"+object, nil)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	req.Header.Set("Accept", accept)
	resp, err := e.do(req, http.StatusOK)
	var status *statusError
	if errors.As(err, &status) && (status.status == http.StatusMethodNotAllowed || status.status == http.StatusNotImplemented || status.status == http.StatusBadRequest) {
		return r.get(ctx, e, object)
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	resp.Body.Close()
	desc := ocispec.Descriptor{MediaType: mediaType(resp), Digest: digest.Digest(resp.Header.Get("Docker-Content-Digest")), Size: resp.ContentLength}
	if desc.Digest.Validate() != nil || desc.Size < 0 || desc.MediaType == "" {
		return r.get(ctx, e, object)
	}
	return desc, r.checkPinned(desc)
}

func (r *Remote) get(ctx context.Context, e *endpoint, object string) (ocispec.Descriptor, error) {
	data, mediaType, err := r.document(ctx, e, object)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	algorithm := digest.SHA256
	if r.ref.Digest != "" {
		algorithm = r.ref.Digest.Algorithm()
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: algorithm.FromBytes(data), Size: int64(len(data))}
	return desc, r.checkPinned(desc)
}

// document fetches a manifest by tag or digest, at most maxManifest bytes of it, unchecked.
func (r *Remote) document(ctx context.Context, e *endpoint, object string) (data []byte, media string, err error) {
	req, err := r.request(ctx, e, http.MethodGet, "/manifests/"+object, nil)
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("Accept", accept)
	resp, err := e.do(req, http.StatusOK)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	data, err = readDocument(resp.Body, object)
	return data, mediaType(resp), err
}

func readDocument(body io.Reader, what string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(body, maxManifest+1))
	if err == nil && len(data) > maxManifest {
		err = mismatch("manifest %s is larger than %d bytes", what, maxManifest)
	}
	return data, err
}

func (r *Remote) checkPinned(desc ocispec.Descriptor) error {
	if r.ref.Digest != "" && desc.Digest != r.ref.Digest {
		return mismatch("asked for %s, the registry answers %s", r.ref.Digest, desc.Digest)
	}
	return nil
}

func mediaType(resp *http.Response) string {
	t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}
