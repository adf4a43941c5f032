package containerd

import (
	"context"

	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/metadata"
)

// namespaceService is the one service whose calls need no namespace header.
type namespaceService struct {
	namespacesapi.UnimplementedNamespacesServer
	eng *engine.Engine
}

func registerNamespaces(r grpc.ServiceRegistrar, eng *engine.Engine, _ Options) {
	namespacesapi.RegisterNamespacesServer(r, namespaceService{eng: eng})
}

// Get answers a namespace without labels where there is none, as containerd does: it comes to be with the first thing in it.
func (s namespaceService) Get(ctx context.Context, req *namespacesapi.GetNamespaceRequest) (*namespacesapi.GetNamespaceResponse, error) {
	if err := engine.CheckNamespace(req.Name); err != nil {
		return nil, err
	}
	ns, err := s.eng.GetNamespace(ctx, req.Name)
	if errdefs.IsNotFound(err) { // dockerd reads the labels of its namespace before anything makes that
		ns = metadata.Namespace{Name: req.Name}
	} else if err != nil {
		return nil, err
	}
	return &namespacesapi.GetNamespaceResponse{Namespace: namespaceToWire(ns)}, nil
}

func (s namespaceService) List(ctx context.Context, _ *namespacesapi.ListNamespacesRequest) (*namespacesapi.ListNamespacesResponse, error) {
	all, err := s.eng.ListNamespaces(ctx)
	if err != nil {
		return nil, err
	}
	resp := &namespacesapi.ListNamespacesResponse{}
	for _, ns := range all {
		resp.Namespaces = append(resp.Namespaces, namespaceToWire(ns))
	}
	return resp, nil
}

func (s namespaceService) Create(ctx context.Context, req *namespacesapi.CreateNamespaceRequest) (*namespacesapi.CreateNamespaceResponse, error) {
	if req.Namespace == nil {
		return nil, missing("namespace")
	}
	ns, err := s.eng.CreateNamespace(ctx, metadata.Namespace{Name: req.Namespace.Name, Labels: req.Namespace.Labels})
	if err != nil {
		return nil, err
	}
	return &namespacesapi.CreateNamespaceResponse{Namespace: namespaceToWire(ns)}, nil
}

func (s namespaceService) Update(ctx context.Context, req *namespacesapi.UpdateNamespaceRequest) (*namespacesapi.UpdateNamespaceResponse, error) {
	if req.Namespace == nil {
		return nil, missing("namespace")
	}
	ns, err := s.eng.UpdateNamespace(ctx, metadata.Namespace{Name: req.Namespace.Name, Labels: req.Namespace.Labels}, req.UpdateMask.GetPaths()...)
	if err != nil {
		return nil, err
	}
	return &namespacesapi.UpdateNamespaceResponse{Namespace: namespaceToWire(ns)}, nil
}

func (s namespaceService) Delete(ctx context.Context, req *namespacesapi.DeleteNamespaceRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.eng.DeleteNamespace(ctx, req.Name)
}

func namespaceToWire(ns metadata.Namespace) *namespacesapi.Namespace {
	return &namespacesapi.Namespace{Name: ns.Name, Labels: ns.Labels}
}
