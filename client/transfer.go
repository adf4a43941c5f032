package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"

	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	transferapi "github.com/containerd/containerd/api/services/transfer/v1"
	"github.com/containerd/containerd/api/types"
	transfertypes "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/platforms"
	"github.com/containerd/typeurl/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image/reference"
)

// Progress is the state of one part of a transfer: a layer, a manifest, or the whole.
type Progress struct {
	Event   string // such as waiting, downloading, unpacking, complete
	Name    string
	Parents []string
	Offset  int64 // bytes done
	Total   int64 // bytes in all, 0 when unknown
	Digest  string
}

// LabelLazy on an image, at its pull, or on a namespace says whether layers are used before they are here.
const LabelLazy = "slipway.io/lazy"

// PullOptions change a pull; the zero value pulls and unpacks for the host's platform.
type PullOptions struct {
	Platforms []ocispec.Platform // fetched; the host's when empty
	NoUnpack  bool
	PlainHTTP bool // the registry speaks no TLS; loopback addresses need not say so
	HostDir   string
	Labels    map[string]string
	Lazy      string // auto, always or never: whether layers are used before they are here; empty for the daemon's default
	// Credentials answers user and secret for a registry host, empty for none. Without it the daemon uses its own.
	Credentials func(ctx context.Context, host string) (user, secret string, err error)
	// Progress is called from one goroutine until Pull returns.
	Progress func(Progress)
}

// Pull fetches the image ref, as docker users write it, into the daemon, which does the fetching. It returns the image under
// its full name. A pull that was cancelled resumes where it stopped the next time.
func (c *Client) Pull(ctx context.Context, ref string, o PullOptions) (Image, error) {
	parsed, err := reference.Parse(ref)
	if err != nil {
		return Image{}, err
	}
	ctx, cancel := context.WithCancel(ctx) // ends the streams beside the call
	defer cancel()
	req, err := c.pullRequest(ctx, parsed.String(), o)
	if err != nil {
		return Image{}, err
	}
	wait := func() {}
	if o.Progress != nil {
		var id string
		if id, wait, err = c.receiveProgress(ctx, o.Progress); err != nil {
			return Image{}, fmt.Errorf("cannot open a progress stream: %w", err)
		}
		req.Options = &transferapi.TransferOptions{ProgressStream: id}
	}
	if _, err := c.transfer.Transfer(ctx, req); err != nil {
		return Image{}, err
	}
	wait()
	return c.Image(ctx, parsed.String())
}

func (c *Client) pullRequest(ctx context.Context, ref string, o PullOptions) (*transferapi.TransferRequest, error) {
	resolver, err := c.resolver(ctx, o)
	if err != nil {
		return nil, err
	}
	store := &transfertypes.ImageStore{Name: ref, Labels: o.Labels}
	if o.Lazy != "" {
		store.Labels = maps.Clone(o.Labels)
		if store.Labels == nil {
			store.Labels = map[string]string{}
		}
		store.Labels[LabelLazy] = o.Lazy
	}
	wanted := o.Platforms
	if len(wanted) == 0 {
		wanted = []ocispec.Platform{platforms.DefaultSpec()}
	}
	for _, p := range wanted {
		store.Platforms = append(store.Platforms, platformToWire(p))
	}
	if !o.NoUnpack {
		store.Unpacks = []*transfertypes.UnpackConfiguration{{Platform: platformToWire(platforms.DefaultSpec()), Snapshotter: c.snapshotter}}
	}
	src, err := typeurl.MarshalAnyToProto(&transfertypes.OCIRegistry{Reference: ref, Resolver: resolver})
	if err != nil {
		return nil, err
	}
	dst, err := typeurl.MarshalAnyToProto(store)
	if err != nil {
		return nil, err
	}
	return &transferapi.TransferRequest{Source: src, Destination: dst}, nil
}

// resolver says how to reach a registry.
func (c *Client) resolver(ctx context.Context, o PullOptions) (*transfertypes.RegistryResolver, error) {
	resolver := &transfertypes.RegistryResolver{HostDir: o.HostDir}
	if o.PlainHTTP {
		resolver.DefaultScheme = "http"
	}
	if o.Credentials != nil {
		id, err := c.answerCredentials(ctx, o.Credentials)
		if err != nil {
			return nil, fmt.Errorf("cannot open a credentials stream: %w", err)
		}
		resolver.AuthStream = id
	}
	return resolver, nil
}

func platformToWire(p ocispec.Platform) *types.Platform {
	return &types.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures}
}

// openStream begins a stream of the Streaming service under a fresh id and waits for its acknowledgement. It ends with ctx.
func (c *Client) openStream(ctx context.Context) (string, streamingapi.Streaming_StreamClient, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", nil, err
	}
	id := "slipway-" + hex.EncodeToString(b[:])
	s, err := c.streams.Stream(ctx)
	if err != nil {
		return "", nil, err
	}
	init, err := typeurl.MarshalAnyToProto(&streamingapi.StreamInit{ID: id})
	if err != nil {
		return "", nil, err
	}
	if err := s.Send(init); err != nil {
		return "", nil, err
	}
	if _, err := s.Recv(); err != nil {
		return "", nil, err
	}
	return id, s, nil
}

// receiveProgress calls fn for what arrives; wait returns when the daemon has ended the stream.
func (c *Client) receiveProgress(ctx context.Context, fn func(Progress)) (id string, wait func(), err error) {
	id, s, err := c.openStream(ctx)
	if err != nil {
		return "", nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			msg, err := s.Recv()
			if err != nil {
				return
			}
			var p transfertypes.Progress
			if typeurl.UnmarshalTo(msg, &p) == nil {
				fn(Progress{Event: p.Event, Name: p.Name, Parents: p.Parents, Offset: p.Progress, Total: p.Total, Digest: p.Desc.GetDigest()})
			}
		}
	}()
	return id, func() { <-done }, nil
}

// answerCredentials serves the daemon's questions for credentials until ctx ends.
func (c *Client) answerCredentials(ctx context.Context, ask func(context.Context, string) (string, string, error)) (string, error) {
	id, s, err := c.openStream(ctx)
	if err != nil {
		return "", err
	}
	go func() {
		for {
			msg, err := s.Recv()
			if err != nil {
				return
			}
			var q transfertypes.AuthRequest
			if typeurl.UnmarshalTo(msg, &q) != nil {
				continue
			}
			answer := &transfertypes.AuthResponse{}
			if user, secret, err := ask(ctx, q.Host); err == nil && secret != "" {
				answer.AuthType, answer.Username, answer.Secret = transfertypes.AuthType_CREDENTIALS, user, secret
				if user == "" {
					answer.AuthType = transfertypes.AuthType_REFRESH
				}
			}
			a, err := typeurl.MarshalAnyToProto(answer)
			if err != nil || s.Send(a) != nil {
				return
			}
		}
	}()
	return id, nil
}
