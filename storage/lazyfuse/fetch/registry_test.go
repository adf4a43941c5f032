package fetch

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/slipwayd/slipway/testsuite/registry"
)

// client is a plain content.Fetcher over HTTP; it trusts the length of bodies, as the scheduler should not.
type client struct{ base string }

func (c client) Fetch(ctx context.Context, desc ocispec.Descriptor, off, length int64) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/v2/app/blobs/"+desc.Digest.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+length-1))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusPartialContent {
		return resp.Body, nil
	}
	resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return nil, fmt.Errorf("the whole blob for a range: %w", errdefs.ErrFailedPrecondition)
	case http.StatusNotFound:
		return nil, fmt.Errorf("404: %w", errdefs.ErrNotFound)
	case http.StatusTooManyRequests:
		return nil, tooMany{10 * time.Millisecond}
	}
	return nil, fmt.Errorf("status %d: %w", resp.StatusCode, errdefs.ErrUnavailable)
}

// TestRegistry reads a blob from a registry that misbehaves now and then: nobody notices.
func TestRegistry(t *testing.T) {
	for name, fault := range map[string]registry.Fault{
		"good":         nil,
		"cut":          registry.Cut(1000),
		"cut at once":  registry.Cut(0),
		"drop":         registry.Drop(),
		"shorten":      registry.Shorten(10),
		"pad":          registry.Pad(10),
		"no length":    registry.NoLength(),
		"too many":     registry.TooManyRequests(1),
		"503":          registry.Status(503),
		"ignore range": registry.IgnoreRange(),
	} {
		t.Run(name, func(t *testing.T) {
			f := newSource(6*mib + 17)
			r := registry.Start(t)
			dgst := digest.FromBytes(f.data)
			r.PutBlob(dgst, f.data)
			if fault != nil {
				r.Fault(registry.Match{Digest: dgst, Skip: 1, Times: 3}, fault)
			}
			s := New(Options{Backoff: time.Millisecond})
			defer s.Close()
			b := s.Blob(r.Host(), f.desc(), client{"http://" + r.Host()})
			var readers errgroup.Group
			for class := range classes {
				readers.Go(func() error {
					for off := 0; off < len(f.data); off += mib / 4 {
						if err := read(b, f, class, off, min(mib/4, len(f.data)-off)); err != nil {
							return err
						}
					}
					return nil
				})
			}
			if err := readers.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRegistryHasNone(t *testing.T) {
	f := newSource(100)
	r := registry.Start(t)
	s := New(Options{})
	defer s.Close()
	b := s.Blob(r.Host(), f.desc(), client{"http://" + r.Host()})
	if err := read(b, f, Foreground, 0, 10); !errdefs.IsNotFound(err) {
		t.Errorf("read: %v", err)
	}
}
