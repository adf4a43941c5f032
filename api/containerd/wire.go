package containerd

import (
	"fmt"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/storage"
)

// missing is the answer to a request without a message that it must have.
func missing(field string) error {
	return fmt.Errorf("request has no %s: %w", field, errdefs.ErrInvalidArgument)
}

// parseDigest checks a digest of a client before anything is done with it.
func parseDigest(s string) (digest.Digest, error) {
	d, err := digest.Parse(s)
	if err != nil {
		return "", fmt.Errorf("digest %q: %w: %w", s, err, errdefs.ErrInvalidArgument)
	}
	return d, nil
}

func descriptorToWire(d ocispec.Descriptor) *types.Descriptor {
	return &types.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, Annotations: d.Annotations}
}

func descriptorFromWire(w *types.Descriptor) (ocispec.Descriptor, error) {
	if w == nil {
		return ocispec.Descriptor{}, missing("descriptor")
	}
	dgst, err := parseDigest(w.Digest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if w.Size < 0 {
		return ocispec.Descriptor{}, fmt.Errorf("descriptor %s has size %d: %w", dgst, w.Size, errdefs.ErrInvalidArgument)
	}
	return ocispec.Descriptor{MediaType: w.MediaType, Digest: dgst, Size: w.Size, Annotations: w.Annotations}, nil
}

func mountsToWire(mounts []storage.Mount) []*types.Mount {
	out := make([]*types.Mount, len(mounts))
	for i, m := range mounts {
		out[i] = &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options}
	}
	return out
}

func mountsFromWire(mounts []*types.Mount) []storage.Mount {
	out := make([]storage.Mount, 0, len(mounts))
	for _, m := range mounts {
		if m != nil {
			out = append(out, storage.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
		}
	}
	return out
}

// toTime leaves out the zero time, which clients would show as the year 1.
func toTime(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// toAny and fromAny carry clients' typed values between protobuf and the engine.
func toAny(a *opaque.Any) *anypb.Any {
	if a == nil {
		return nil
	}
	return &anypb.Any{TypeUrl: a.TypeURL, Value: a.Value}
}

func fromAny(a *anypb.Any) *opaque.Any {
	if a == nil {
		return nil
	}
	return &opaque.Any{TypeURL: a.TypeUrl, Value: a.Value}
}
