package slipway

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/slipwayd/slipway/api/containerd"
	slipwayv1 "github.com/slipwayd/slipway/api/slipway/v1"
)

func (s *images) Pulls(ctx context.Context, _ *slipwayv1.PullsRequest) (*slipwayv1.PullsResponse, error) {
	sc, err := containerd.Scope(ctx)
	if err != nil {
		return nil, err
	}
	r := &slipwayv1.PullsResponse{}
	for _, p := range s.engine.Pulls(sc.Namespace) {
		r.Pulls = append(r.Pulls, &slipwayv1.Pull{Ref: p.Ref, Begun: timestamppb.New(p.Begun), Done: p.Done, Total: p.Bytes, Unpacking: p.Unpacking})
	}
	return r, nil
}
