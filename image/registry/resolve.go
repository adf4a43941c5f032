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
	desc, _, err := r.resolve(ctx, func(ctx context.Context, e *endpoint) (ocispec.Descriptor, []byte, error) {
		desc, err := r.head(ctx, e, r.ref.Object())
		return desc, nil, err
	})
	return desc, err
}

// ResolveAndFetch is Resolve that answers the manifest as well, at most 4 MiB, by one request instead of two. It is for names of which
// nothing is here, as registries count it as a pull.
func (r *Remote) ResolveAndFetch(ctx context.Context) (ocispec.Descriptor, []byte, error) {
	return r.resolve(ctx, func(ctx context.Context, e *endpoint) (ocispec.Descriptor, []byte, error) {
		return r.get(ctx, e, r.ref.Object())
	})
}

func (r *Remote) resolve(ctx context.Context, ask func(context.Context, *endpoint) (ocispec.Descriptor, []byte, error)) (desc ocispec.Descriptor, data []byte, err error) {
	capability := hosts.Pull | hosts.Resolve
	if r.ref.Digest != "" {
		capability = hosts.Pull
	}
	err = r.each(ctx, capability, 0, min(2, r.config.Retries), func(e *endpoint) (err error) {
		desc, data, err = ask(ctx, e)
		return err
	})
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("cannot resolve %s: %w", r.ref, err)
	}
	return desc, data, nil
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
		desc, _, err := r.get(ctx, e, object)
		return desc, err
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	resp.Body.Close()
	desc := ocispec.Descriptor{MediaType: mediaType(resp.Header), Digest: digest.Digest(resp.Header.Get("Docker-Content-Digest")), Size: resp.ContentLength}
	if desc.Digest.Validate() != nil || desc.Size < 0 || desc.MediaType == "" {
		desc, _, err := r.get(ctx, e, object)
		return desc, err
	}
	return desc, r.checkPinned(desc)
}

// get asks for a manifest and computes its descriptor. What the registry says of its digest must be true, but need not be said.
func (r *Remote) get(ctx context.Context, e *endpoint, object string) (ocispec.Descriptor, []byte, error) {
	data, header, err := r.document(ctx, e, object)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	said := digest.Digest(header.Get("Docker-Content-Digest"))
	algorithm := digest.SHA256
	switch {
	case r.ref.Digest != "":
		algorithm = r.ref.Digest.Algorithm()
	case said.Validate() == nil:
		algorithm = said.Algorithm()
	}
	desc := ocispec.Descriptor{MediaType: mediaType(header), Digest: algorithm.FromBytes(data), Size: int64(len(data))}
	if said.Validate() == nil && said.Algorithm() == algorithm && said != desc.Digest {
		return desc, nil, mismatch("the registry sends bytes with digest %s for %s, and says that they have %s", desc.Digest, object, said)
	}
	return desc, data, r.checkPinned(desc)
}

// document fetches a manifest by tag or digest, at most maxManifest bytes of it, unchecked, with the answer's header.
func (r *Remote) document(ctx context.Context, e *endpoint, object string) ([]byte, http.Header, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := r.request(ctx, e, http.MethodGet, "/manifests/"+object, nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Accept", accept)
	resp, err := e.do(req, http.StatusOK)
	if err != nil {
		return nil, nil, err
	}
	body := &watched{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, timeout: r.config.StallTimeout}
	defer body.Close()
	data, err := readDocument(body, object)
	return data, resp.Header, err
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

func mediaType(header http.Header) string {
	t, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}
