package slipway

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"

	"github.com/slipwayd/slipway/api/containerd"
	slipwayv1 "github.com/slipwayd/slipway/api/slipway/v1"
	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/image/convert"
)

type images struct {
	slipwayv1.UnimplementedImagesServer
	engine *engine.Engine
}

// maxFirst bounds the list of files that a client wants first.
const maxFirst = 100_000

func (s *images) Convert(r *slipwayv1.ConvertRequest, stream grpc.ServerStreamingServer[slipwayv1.ConvertResponse]) error {
	sc, err := containerd.Scope(stream.Context())
	if err != nil {
		return err
	}
	if r.Source == "" || r.Target == "" || len(r.First) > maxFirst {
		return fmt.Errorf("a conversion needs the names of two images and at most %d files: %w", maxFirst, errdefs.ErrInvalidArgument)
	}
	var wanted []ocispec.Platform
	for _, text := range r.Platforms {
		p, err := platforms.Parse(text)
		if err != nil {
			return fmt.Errorf("platform %.100q: %w: %w", text, err, errdefs.ErrInvalidArgument)
		}
		wanted = append(wanted, p)
	}
	made, err := s.engine.Convert(stream.Context(), sc, engine.ConvertOptions{
		Source: r.Source, Target: r.Target, Format: convert.Format(r.Format), Platforms: wanted, First: r.First, FirstProfiled: r.FirstProfiled,
		Progress: func(p image.Progress) {
			// A client that is gone ends the conversion by its context.
			_ = stream.Send(&slipwayv1.ConvertResponse{Progress: &slipwayv1.ConvertProgress{
				Digest: p.Desc.Digest.String(), State: string(p.State), Offset: p.Offset, Total: p.Desc.Size,
			}})
		},
	})
	if err != nil {
		return err
	}
	answer := &slipwayv1.Converted{
		Name: made.Image.Name, MediaType: made.Image.Target.MediaType, Digest: made.Image.Target.Digest.String(), Size: made.Image.Target.Size,
		Kept: map[string]string{},
	}
	for d, why := range made.Kept {
		answer.Kept[d.String()] = why
	}
	return stream.Send(&slipwayv1.ConvertResponse{Converted: answer})
}
