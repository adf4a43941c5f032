package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	transferapi "github.com/containerd/containerd/api/services/transfer/v1"
	transfertypes "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	slipwayapi "github.com/slipwayd/slipway/api/slipway/v1"
	"github.com/slipwayd/slipway/image/reference"
)

// ConvertOptions change a conversion; Format is required.
type ConvertOptions struct {
	Format    string   // "estargz" or "zstd:chunked"
	Platforms []string // os/arch[/variant]; all that are in the daemon whole when empty
	// First are files that starts need, in order; they come first in their layers. Of estargz only.
	First []string
	// FirstProfiled puts first what starts of the image have read that the daemon has recorded. NOT_FOUND when there was none.
	FirstProfiled bool
	// Progress is called from one goroutine until Convert returns, with events converting, exists, kept and done of layers.
	Progress func(Progress)
}

// Converted is what became of an image.
type Converted struct {
	Name   string
	Target ocispec.Descriptor
	Kept   map[string]string // layers by digest that stayed as they were, and why
}

// Convert makes of the image source, by its full name, the image target, whose layers can be read before they are here whole.
// Of Slipway's daemon only. A conversion that was cancelled goes on where it was when it is repeated soon.
func (c *Client) Convert(ctx context.Context, source, target string, o ConvertOptions) (Converted, error) {
	parsed, err := reference.Parse(target)
	if err != nil {
		return Converted{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := slipwayapi.NewImagesClient(c.conn).Convert(ctx, &slipwayapi.ConvertRequest{
		Source: source, Target: parsed.String(), Format: o.Format, Platforms: o.Platforms, First: o.First, FirstProfiled: o.FirstProfiled,
	})
	if err != nil {
		return Converted{}, err
	}
	var made Converted
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return made, nil
		}
		if err != nil {
			return Converted{}, err
		}
		if p := m.Progress; p != nil && o.Progress != nil {
			o.Progress(Progress{Event: p.State, Name: "layer-" + p.Digest, Parents: []string{source}, Offset: p.Offset, Total: p.Total, Digest: p.Digest})
		}
		if r := m.Converted; r != nil {
			made = Converted{r.Name, ocispec.Descriptor{MediaType: r.MediaType, Digest: digest.Digest(r.Digest), Size: r.Size}, r.Kept}
		}
	}
}

// PushOptions change a push; the zero value pushes all of the image that the daemon has.
type PushOptions struct {
	Platforms   []ocispec.Platform
	PlainHTTP   bool // the registry speaks no TLS; loopback addresses need not say so
	HostDir     string
	Credentials func(ctx context.Context, host string) (user, secret string, err error) // as in PullOptions
	Progress    func(Progress)
}

// Push sends the image of that full name to the registry and name of ref.
func (c *Client) Push(ctx context.Context, name, ref string, o PushOptions) error {
	parsed, err := reference.Parse(ref)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx) // ends the streams beside the call
	defer cancel()
	resolver, err := c.resolver(ctx, PullOptions{HostDir: o.HostDir, PlainHTTP: o.PlainHTTP, Credentials: o.Credentials})
	if err != nil {
		return err
	}
	store := &transfertypes.ImageStore{Name: name}
	for _, p := range o.Platforms {
		store.Platforms = append(store.Platforms, platformToWire(p))
	}
	src, err := typeurl.MarshalAnyToProto(store)
	if err != nil {
		return err
	}
	dst, err := typeurl.MarshalAnyToProto(&transfertypes.OCIRegistry{Reference: parsed.String(), Resolver: resolver})
	if err != nil {
		return err
	}
	req, wait := &transferapi.TransferRequest{Source: src, Destination: dst}, func() {}
	if o.Progress != nil {
		var id string
		if id, wait, err = c.receiveProgress(ctx, o.Progress); err != nil {
			return fmt.Errorf("cannot open a progress stream: %w", err)
		}
		req.Options = &transferapi.TransferOptions{ProgressStream: id}
	}
	if _, err := c.transfer.Transfer(ctx, req); err != nil {
		return err
	}
	wait()
	return nil
}
