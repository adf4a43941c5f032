package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/slipwayd/slipway/image/hosts"
)

// Bounds of a list of referrers. What is beyond them is not looked at.
const (
	maxReferrerPages = 8
	maxReferrers     = 1000
)

// Referrers lists the artifacts that say they are about subject and have one of the types (distribution-spec 1.1, "Listing
// Referrers"), none when there are none. Of a registry without that API it reads the list under the tag for it ("Referrers Tag
// Schema"), and does not ask that host for the API again. Nothing in the list is to be believed: not even that an artifact is
// about subject.
func (r *Remote) Referrers(ctx context.Context, subject digest.Digest, types ...string) ([]ocispec.Descriptor, error) {
	var all []ocispec.Descriptor
	err := r.each(ctx, hosts.Pull|hosts.Resolve, 0, min(1, r.config.Retries), func(e *endpoint) error {
		list, err := r.listReferrers(ctx, e, subject, types)
		all = list
		return err
	})
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list what refers to %s in %s: %w", subject, r.ref.Name(), err)
	}
	return slices.DeleteFunc(all, func(d ocispec.Descriptor) bool {
		return !slices.Contains(types, d.ArtifactType) || d.Digest.Validate() != nil || d.Size < 0
	}), nil
}

func (r *Remote) listReferrers(ctx context.Context, e *endpoint, subject digest.Digest, types []string) ([]ocispec.Descriptor, error) {
	if _, lacks := r.noReferrers.Load(e.URL.Host); lacks {
		list, _, err := r.referrersPage(ctx, e, "/manifests/"+referrersTag(subject), nil)
		return list, err
	}
	query := url.Values{}
	if len(types) == 1 {
		query.Set("artifactType", types[0])
	}
	all, next, err := r.referrersPage(ctx, e, "/referrers/"+subject.String(), query)
	if lacksReferrers(err) {
		r.noReferrers.Store(e.URL.Host, nil)
		return r.listReferrers(ctx, e, subject, types)
	}
	for page := 1; err == nil && next != nil && page < maxReferrerPages && len(all) < maxReferrers; page++ {
		var more []ocispec.Descriptor
		more, next, err = r.referrersPage(ctx, e, "/referrers/"+subject.String(), next)
		all = append(all, more...)
	}
	return all[:min(len(all), maxReferrers)], err
}

// lacksReferrers says whether an answer means that there is no such API. That the repository is not there says nothing of it.
func lacksReferrers(err error) bool {
	var status *statusError
	if !errors.As(err, &status) {
		return errors.Is(err, errNoIndex)
	}
	switch status.status {
	case http.StatusMethodNotAllowed, http.StatusBadRequest:
		return true
	case http.StatusNotFound:
		return !strings.HasPrefix(status.detail, "NAME_UNKNOWN")
	}
	return false
}

var errNoIndex = errors.New("the registry answers something else than an image index")

// referrersPage answers one page of the list and, when there are more, the query of the next.
func (r *Remote) referrersPage(ctx context.Context, e *endpoint, path string, query url.Values) (list []ocispec.Descriptor, next url.Values, err error) {
	req, err := r.request(ctx, e, http.MethodGet, path, nil)
	if err != nil {
		return nil, nil, err
	}
	q := req.URL.Query()
	for k, v := range query {
		q[k] = v
	}
	req.URL.RawQuery = q.Encode()
	req.Header.Set("Accept", ocispec.MediaTypeImageIndex)
	resp, err := e.do(req, http.StatusOK)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if mediaType(resp.Header) != ocispec.MediaTypeImageIndex {
		return nil, nil, errNoIndex
	}
	data, err := readDocument(resp.Body, path)
	if err != nil {
		return nil, nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, nil, mismatch("the list of referrers is not an image index: %v", err)
	}
	return index.Manifests, nextPage(resp), nil
}

// nextPage reads the query of a Link header's "next" (RFC 8288). Where it leads to otherwise is not followed: credentials go with it.
func nextPage(resp *http.Response) url.Values {
	for link := range strings.SplitSeq(resp.Header.Get("Link"), ",") {
		target, params, _ := strings.Cut(link, ";")
		target, rel := strings.TrimSpace(target), strings.ReplaceAll(params, `"`, "")
		if !strings.HasPrefix(target, "<") || !strings.HasSuffix(target, ">") || !strings.Contains(rel, "rel=next") {
			continue
		}
		if u, err := url.Parse(target[1 : len(target)-1]); err == nil {
			return u.Query()
		}
	}
	return nil
}

func referrersTag(subject digest.Digest) string {
	return subject.Algorithm().String() + "-" + subject.Encoded()
}

// Manifest fetches a manifest by its digest where its size is not known, checked.
func (r *Remote) Manifest(ctx context.Context, dgst digest.Digest) ([]byte, error) {
	if err := dgst.Validate(); err != nil {
		return nil, fmt.Errorf("%.100q: %w: %w", dgst, err, errdefs.ErrInvalidArgument)
	}
	var data []byte
	err := r.each(ctx, hosts.Pull, 0, min(2, r.config.Retries), func(e *endpoint) error {
		got, _, err := r.document(ctx, e, dgst.String())
		if err == nil && dgst.Algorithm().FromBytes(got) != dgst {
			err = mismatch("the registry sends other bytes for %s", dgst)
		}
		data = got
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot fetch manifest %s of %s: %w", dgst, r.ref.Name(), err)
	}
	return data, nil
}

// PushReferrer stores a manifest that has a subject, and sees to it that Referrers finds it: where the registry does not say
// that it has understood, by an entry in the list under the subject's tag. Two that do so at once may lose one of the entries;
// the protocol has nothing against that.
func (r *Remote) PushReferrer(ctx context.Context, desc ocispec.Descriptor, subject digest.Digest, data []byte) error {
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	var understood bool
	err := r.push(ctx, func(e *endpoint) error {
		req, err := r.request(ctx, e, http.MethodPut, "/manifests/"+desc.Digest.String(), nil)
		if err != nil {
			return err
		}
		header, err := r.putFor(ctx, e, req.URL, desc.Size, desc.MediaType, open)
		understood = header.Get("OCI-Subject") != ""
		return err
	})
	if err == nil && !understood {
		err = r.push(ctx, func(e *endpoint) error { return r.addToTag(ctx, e, desc, subject) })
	}
	if err != nil {
		return fmt.Errorf("cannot push %s, which is about %s, to %s: %w", desc.Digest, subject, r.ref.Name(), err)
	}
	return nil
}

// addToTag adds a descriptor to the list under the tag of subject.
func (r *Remote) addToTag(ctx context.Context, e *endpoint, desc ocispec.Descriptor, subject digest.Digest) error {
	// With the scope of the push that follows, so that one token does for both.
	ctx = auth.AppendScopes(ctx, auth.ScopeRepository(r.ref.Repository, auth.ActionPull, auth.ActionPush))
	path := "/manifests/" + referrersTag(subject)
	list, _, err := r.referrersPage(ctx, e, path, nil)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if slices.ContainsFunc(list, func(d ocispec.Descriptor) bool { return d.Digest == desc.Digest }) {
		return nil
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: append(list, desc)}
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	req, err := r.request(ctx, e, http.MethodPut, path, nil)
	if err != nil {
		return err
	}
	return r.put(ctx, e, req.URL, int64(len(data)), index.MediaType, func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	})
}
