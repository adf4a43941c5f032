//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// hub is the registry that holds the images, asked past the slow line.
type hub struct{ host string }

func (h hub) do(ctx context.Context, method, address string, header http.Header, body io.Reader, size int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, err
	}
	req.Header, req.ContentLength = header, size
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%s %s: %s: %s", method, address, resp.Status, text)
	}
	return resp, nil
}

func (h hub) url(repo, kind, name string) string {
	return "http://" + h.host + "/v2/" + repo + "/" + kind + "/" + name
}

// has says whether an image is there.
func (h hub) has(ctx context.Context, repo string) bool {
	_, err := h.manifest(ctx, repo)
	return err == nil
}

func (h hub) manifest(ctx context.Context, repo string) (m ocispec.Manifest, err error) {
	resp, err := h.do(ctx, http.MethodGet, h.url(repo, "manifests", "latest"), http.Header{"Accept": {ocispec.MediaTypeImageManifest}}, nil, 0)
	if err != nil {
		return m, err
	}
	defer resp.Body.Close()
	return m, json.NewDecoder(resp.Body).Decode(&m)
}

// blob opens a blob; the caller closes it.
func (h hub) blob(ctx context.Context, repo string, d digest.Digest) (io.ReadCloser, error) {
	resp, err := h.do(ctx, http.MethodGet, h.url(repo, "blobs", d.String()), nil, nil, 0)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// warm reads all blobs of an image, so that the registry has them in memory after the page cache was emptied.
func (h hub) warm(ctx context.Context, repo string) error {
	m, err := h.manifest(ctx, repo)
	if err != nil {
		return err
	}
	for _, desc := range append(m.Layers, m.Config) {
		r, err := h.blob(ctx, repo, desc.Digest)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, r)
		_ = r.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// putBlob uploads in two requests, as "Pushing a blob monolithically" of the distribution spec has it.
func (h hub) putBlob(ctx context.Context, repo string, d digest.Digest, r io.Reader, size int64) error {
	resp, err := h.do(ctx, http.MethodPost, h.url(repo, "blobs", "uploads/"), nil, nil, 0)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	to, err := resp.Location()
	if err != nil {
		return err
	}
	q := to.Query()
	q.Set("digest", d.String())
	to.RawQuery = q.Encode()
	resp, err = h.do(ctx, http.MethodPut, to.String(), http.Header{"Content-Type": {"application/octet-stream"}}, r, size)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// built is an image on its way into the registry: layers are put one by one, so that few are in memory.
type built struct {
	hub
	repo   string
	layers []ocispec.Descriptor
	diffs  []digest.Digest
}

func (b *built) add(ctx context.Context, desc ocispec.Descriptor, diff digest.Digest, r io.Reader) error {
	b.layers, b.diffs = append(b.layers, desc), append(b.diffs, diff)
	return b.putBlob(ctx, b.repo, desc.Digest, r, desc.Size)
}

// addFile is add of a file's content.
func (b *built) addFile(ctx context.Context, desc ocispec.Descriptor, diff digest.Digest, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return b.add(ctx, desc, diff, f)
}

// finish puts config and manifest.
func (b *built) finish(ctx context.Context, config ocispec.Image) error {
	config.RootFS, config.History = ocispec.RootFS{Type: "layers", DiffIDs: b.diffs}, nil
	data, err := json.Marshal(config)
	if err != nil {
		return err
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := b.putBlob(ctx, b.repo, desc.Digest, bytes.NewReader(data), desc.Size); err != nil {
		return err
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: desc, Layers: b.layers}
	if data, err = json.Marshal(m); err != nil {
		return err
	}
	resp, err := b.do(ctx, http.MethodPut, b.url(b.repo, "manifests", "latest"), http.Header{"Content-Type": {m.MediaType}}, bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// fetchJSON reads a small blob.
func (h hub) fetchJSON(ctx context.Context, repo string, d digest.Digest, v any) error {
	r, err := h.blob(ctx, repo, d)
	if err != nil {
		return err
	}
	defer r.Close()
	return json.NewDecoder(r).Decode(v)
}
