package slipway

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"

	"github.com/slipwayd/slipway/api/containerd"
	slipwayv1 "github.com/slipwayd/slipway/api/slipway/v1"
	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/image/registry"
)

func (s *images) PushIndexes(ctx context.Context, r *slipwayv1.PushIndexesRequest) (*slipwayv1.PushIndexesResponse, error) {
	sc, err := containerd.Scope(ctx)
	if err != nil {
		return nil, err
	}
	o := engine.PushIndexesOptions{Image: r.Image, Key: r.Key, Remote: registry.Options{PlainHTTP: r.PlainHttp}}
	if r.Platform != "" {
		p, err := platforms.Parse(r.Platform)
		if err != nil {
			return nil, fmt.Errorf("platform %.100q: %w: %w", r.Platform, err, errdefs.ErrInvalidArgument)
		}
		o.Platform = &p
	}
	if r.User != "" {
		o.Remote.Credentials = func(context.Context, string) (registry.Credential, error) {
			return registry.Credential{Username: r.User, Password: r.Secret}, nil
		}
	}
	p, err := s.engine.PushIndexes(ctx, sc, o)
	if err != nil {
		return nil, err
	}
	answer := &slipwayv1.PushIndexesResponse{Digest: p.Artifact.Digest.String(), Size: p.Size, Profiles: int32(p.Profiles), Without: map[string]string{}}
	for _, d := range p.Layers {
		answer.Layers = append(answer.Layers, d.String())
	}
	for d, why := range p.Without {
		answer.Without[d.String()] = why
	}
	return answer, nil
}
