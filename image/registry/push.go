package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/slipwayd/slipway/image/hosts"
)

// Exists reports whether the first host that takes pushes has the blob or manifest.
func (r *Remote) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	path := "/blobs/"
	if isDocument(desc.MediaType) {
		path = "/manifests/"
	}
	err := r.push(ctx, func(e *endpoint) error {
		req, err := r.request(ctx, e, http.MethodHead, path+desc.Digest.String(), nil, auth.ActionPull, auth.ActionPush)
		if err != nil {
			return err
		}
		req.Header.Set("Accept", accept)
		resp, err := e.do(req, http.StatusOK)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot look for %s in %s: %w", desc.Digest, r.ref.Name(), err)
	}
	return true, nil
}

// push calls fn for the one host that is pushed to: content must not be spread over several.
func (r *Remote) push(ctx context.Context, fn func(*endpoint) error) error {
	for i, e := range r.endpoints {
		if e.Has(hosts.Push) {
			one := &Remote{config: r.config, ref: r.ref, endpoints: r.endpoints[i : i+1], noReferrers: r.noReferrers}
			return one.each(ctx, hosts.Push, 0, r.config.Retries, fn)
		}
	}
	return fmt.Errorf("hosts.toml of %s has no host that takes pushes: %w", r.ref.Host, errdefs.ErrFailedPrecondition)
}

// Mount makes a blob of another repository of the same registry this repository's too. False when the registry would not,
// for whatever reason: the blob is to be pushed then.
func (r *Remote) Mount(ctx context.Context, desc ocispec.Descriptor, from string) (bool, error) {
	var mounted bool
	err := r.push(ctx, func(e *endpoint) error {
		ctx := auth.AppendScopes(ctx, auth.ScopeRepository(from, auth.ActionPull))
		resp, err := r.begin(ctx, e, url.Values{"mount": {desc.Digest.String()}, "from": {from}})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if mounted = resp.StatusCode == http.StatusCreated; mounted {
			return nil
		}
		return r.cancelUpload(ctx, e, resp)
	})
	if err != nil && ctx.Err() != nil {
		return false, err
	}
	return mounted && err == nil, nil
}

// begin opens an upload.
func (r *Remote) begin(ctx context.Context, e *endpoint, query url.Values) (*http.Response, error) {
	req, err := r.request(ctx, e, http.MethodPost, "/blobs/uploads/", nil, auth.ActionPull, auth.ActionPush)
	if err != nil {
		return nil, err
	}
	q := req.URL.Query()
	for k, v := range query {
		q[k] = v
	}
	req.URL.RawQuery = q.Encode()
	return e.do(req, http.StatusAccepted, http.StatusCreated)
}

// cancelUpload drops an upload that a registry began in place of a mount. Registries need not be able to.
func (r *Remote) cancelUpload(ctx context.Context, e *endpoint, begun *http.Response) error {
	location, err := begun.Location()
	if err != nil {
		return nil
	}
	req, err := r.request(ctx, e, http.MethodDelete, "", nil, auth.ActionPull, auth.ActionPush)
	if err != nil {
		return err
	}
	req.URL, req.Host = location, location.Host
	if resp, err := e.http.Do(req); err == nil {
		resp.Body.Close()
	}
	return nil
}

// PushBlob uploads a blob in one request. open is called for each try and yields its bytes from the start.
func (r *Remote) PushBlob(ctx context.Context, desc ocispec.Descriptor, open func() (io.ReadCloser, error)) error {
	err := r.push(ctx, func(e *endpoint) error {
		begun, err := r.begin(ctx, e, nil)
		if err != nil {
			return err
		}
		begun.Body.Close()
		location, err := begun.Location()
		if err != nil {
			return mismatch("the registry began an upload without saying where: %v", err)
		}
		q := location.Query()
		q.Set("digest", desc.Digest.String())
		location.RawQuery = q.Encode()
		return r.put(ctx, e, location, desc.Size, "application/octet-stream", open)
	})
	if err != nil {
		return fmt.Errorf("cannot push blob %s to %s: %w", desc.Digest, r.ref.Name(), err)
	}
	return nil
}

func (r *Remote) put(ctx context.Context, e *endpoint, to *url.URL, size int64, mediaType string, open func() (io.ReadCloser, error)) error {
	_, err := r.putFor(ctx, e, to, size, mediaType, open)
	return err
}

// putFor answers the header of the registry's answer too, never nil.
func (r *Remote) putFor(ctx context.Context, e *endpoint, to *url.URL, size int64, mediaType string, open func() (io.ReadCloser, error)) (http.Header, error) {
	body, err := open()
	if err != nil {
		return http.Header{}, err
	}
	defer body.Close()
	req, err := r.request(ctx, e, http.MethodPut, "", body, auth.ActionPull, auth.ActionPush)
	if err != nil {
		return http.Header{}, err
	}
	req.URL, req.Host = to, to.Host
	req.ContentLength, req.GetBody = size, open
	if size == 0 {
		req.Body = http.NoBody
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := e.do(req, http.StatusCreated, http.StatusNoContent, http.StatusOK)
	if err != nil {
		return http.Header{}, err
	}
	return resp.Header, resp.Body.Close()
}

// PushManifest stores a manifest under its digest, and under the tag as well when there is one.
func (r *Remote) PushManifest(ctx context.Context, desc ocispec.Descriptor, tag string, open func() (io.ReadCloser, error)) error {
	object := tag
	if object == "" {
		object = desc.Digest.String()
	}
	err := r.push(ctx, func(e *endpoint) error {
		req, err := r.request(ctx, e, http.MethodPut, "/manifests/"+object, nil)
		if err != nil {
			return err
		}
		return r.put(ctx, e, req.URL, desc.Size, desc.MediaType, open)
	})
	var status *statusError
	if errors.As(err, &status) && status.status == http.StatusRequestEntityTooLarge {
		err = fmt.Errorf("%w (the registry takes no manifest this big)", err)
	}
	if err != nil {
		return fmt.Errorf("cannot push manifest %s to %s: %w", desc.Digest, r.ref.Name(), err)
	}
	return nil
}
