package containerd

import (
	"cmp"
	"context"
	"crypto/rand"

	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/metadata"
)

type leaseService struct {
	leasesapi.UnimplementedLeasesServer
	eng *engine.Engine
}

func registerLeases(r grpc.ServiceRegistrar, eng *engine.Engine, _ Options) {
	leasesapi.RegisterLeasesServer(r, leaseService{eng: eng})
}

func (s leaseService) Create(ctx context.Context, req *leasesapi.CreateRequest) (*leasesapi.CreateResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	// A client that names none gets one of ours, as from containerd.
	l, err := s.eng.CreateLease(ctx, sc.Namespace, metadata.Lease{ID: cmp.Or(req.ID, rand.Text()), Labels: req.Labels})
	if err != nil {
		return nil, err
	}
	return &leasesapi.CreateResponse{Lease: leaseToWire(l)}, nil
}

func (s leaseService) Delete(ctx context.Context, req *leasesapi.DeleteRequest) (*emptypb.Empty, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, s.eng.DeleteLease(ctx, sc.Namespace, req.ID, req.Sync)
}

func (s leaseService) List(ctx context.Context, req *leasesapi.ListRequest) (*leasesapi.ListResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	all, err := s.eng.ListLeases(ctx, sc.Namespace, req.Filters...)
	if err != nil {
		return nil, err
	}
	resp := &leasesapi.ListResponse{}
	for _, l := range all {
		resp.Leases = append(resp.Leases, leaseToWire(l))
	}
	return resp, nil
}

func (s leaseService) AddResource(ctx context.Context, req *leasesapi.AddResourceRequest) (*emptypb.Empty, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	if req.Resource == nil {
		return nil, missing("resource")
	}
	return &emptypb.Empty{}, s.eng.AddLeaseResource(ctx, sc.Namespace, req.ID, resourceFromWire(req.Resource))
}

func (s leaseService) DeleteResource(ctx context.Context, req *leasesapi.DeleteResourceRequest) (*emptypb.Empty, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	if req.Resource == nil {
		return nil, missing("resource")
	}
	return &emptypb.Empty{}, s.eng.DeleteLeaseResource(ctx, sc.Namespace, req.ID, resourceFromWire(req.Resource))
}

func (s leaseService) ListResources(ctx context.Context, req *leasesapi.ListResourcesRequest) (*leasesapi.ListResourcesResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	all, err := s.eng.LeaseResources(ctx, sc.Namespace, req.ID)
	if err != nil {
		return nil, err
	}
	resp := &leasesapi.ListResourcesResponse{}
	for _, r := range all {
		resp.Resources = append(resp.Resources, &leasesapi.Resource{ID: r.ID, Type: r.Type})
	}
	return resp, nil
}

func leaseToWire(l metadata.Lease) *leasesapi.Lease {
	return &leasesapi.Lease{ID: l.ID, CreatedAt: toTime(l.CreatedAt), Labels: l.Labels}
}

func resourceFromWire(w *leasesapi.Resource) metadata.Resource {
	return metadata.Resource{Type: w.Type, ID: w.ID}
}
