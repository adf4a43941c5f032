package containerd

import (
	"context"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	"google.golang.org/grpc"

	"github.com/slipwayd/slipway/engine"
)

type diffService struct {
	diffapi.UnimplementedDiffServer
	eng *engine.Engine
}

func registerDiff(r grpc.ServiceRegistrar, eng *engine.Engine, _ Options) {
	diffapi.RegisterDiffServer(r, diffService{eng: eng})
}

// Apply ignores sync_fs: what it answers is durable anyway.
func (s diffService) Apply(ctx context.Context, req *diffapi.ApplyRequest) (*diffapi.ApplyResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	desc, err := descriptorFromWire(req.Diff)
	if err != nil {
		return nil, err
	}
	applied, err := s.eng.Apply(ctx, sc, desc, mountsFromWire(req.Mounts))
	if err != nil {
		return nil, err
	}
	return &diffapi.ApplyResponse{Applied: descriptorToWire(applied)}, nil
}

func (s diffService) Diff(ctx context.Context, req *diffapi.DiffRequest) (*diffapi.DiffResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	desc, err := s.eng.Diff(ctx, sc, mountsFromWire(req.Left), mountsFromWire(req.Right), engine.DiffOptions{
		MediaType: req.MediaType, Ref: req.Ref, Labels: req.Labels,
	})
	if err != nil {
		return nil, err
	}
	return &diffapi.DiffResponse{Diff: descriptorToWire(desc)}, nil
}
