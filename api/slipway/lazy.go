package slipway

import (
	"context"

	"github.com/slipwayd/slipway/api/containerd"
	slipwayv1 "github.com/slipwayd/slipway/api/slipway/v1"
	"github.com/slipwayd/slipway/engine"
)

type lazy struct {
	slipwayv1.UnimplementedLazyServer
	engine *engine.Engine
}

func (l *lazy) Layers(ctx context.Context, req *slipwayv1.LazyLayersRequest) (*slipwayv1.LazyLayersResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	layers, err := l.engine.ImageLayers(ctx, sc.Namespace, req.Image)
	if err != nil {
		return nil, err
	}
	resp := &slipwayv1.LazyLayersResponse{}
	for _, layer := range layers {
		resp.Layers = append(resp.Layers, layerToWire(layer))
	}
	return resp, nil
}

func layerToWire(l engine.ImageLayer) *slipwayv1.LazyLayer {
	w := &slipwayv1.LazyLayer{Digest: l.Desc.Digest.String(), Size: l.Desc.Size, ChainId: l.Chain.String(), Mode: l.Mode, Reason: l.Reason, Index: l.Index}
	if l.Err != nil {
		w.Error = l.Err.Error()
	}
	if z := l.Lazy; z != nil {
		w.Origin, w.FileBytes, w.HereBytes = z.Origin, z.FileBytes, z.CachedBytes
		w.DemandBytes, w.ProfileBytes, w.BackgroundBytes = z.DemandBytes, z.ProfileBytes, z.BackgroundBytes
		w.ReadBytes, w.Reads, w.WaitedReads, w.ReadErrors = z.ReadBytes, z.Reads, z.WaitedReads, z.ReadErrors
	}
	return w
}

func (l *lazy) StartProfiles(ctx context.Context, req *slipwayv1.StartProfilesRequest) (*slipwayv1.StartProfilesResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	profiles, err := l.engine.StartProfiles(ctx, sc.Namespace, req.Image)
	if err != nil {
		return nil, err
	}
	resp := &slipwayv1.StartProfilesResponse{}
	for _, p := range profiles {
		resp.Profiles = append(resp.Profiles, containerd.StartProfile(p))
	}
	return resp, nil
}

func (l *lazy) Wait(ctx context.Context, req *slipwayv1.LazyWaitRequest) (*slipwayv1.LazyWaitResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	return &slipwayv1.LazyWaitResponse{}, l.engine.WaitLazy(ctx, sc.Namespace, req.Image)
}
