package containerd

import (
	"context"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/metadata"
)

type containerService struct {
	containersapi.UnimplementedContainersServer
	eng *engine.Engine
}

func registerContainers(r grpc.ServiceRegistrar, eng *engine.Engine, _ Options) {
	containersapi.RegisterContainersServer(r, containerService{eng: eng})
}

func (s containerService) Get(ctx context.Context, req *containersapi.GetContainerRequest) (*containersapi.GetContainerResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	c, err := s.eng.GetContainer(ctx, sc.Namespace, req.ID)
	if err != nil {
		return nil, err
	}
	return &containersapi.GetContainerResponse{Container: containerToWire(c)}, nil
}

func (s containerService) List(ctx context.Context, req *containersapi.ListContainersRequest) (*containersapi.ListContainersResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	all, err := s.eng.ListContainers(ctx, sc.Namespace, req.Filters...)
	if err != nil {
		return nil, err
	}
	resp := &containersapi.ListContainersResponse{Containers: make([]*containersapi.Container, len(all))}
	for i, c := range all {
		resp.Containers[i] = containerToWire(c)
	}
	return resp, nil
}

func (s containerService) ListStream(req *containersapi.ListContainersRequest, stream containersapi.Containers_ListStreamServer) error {
	sc, err := scope(stream.Context())
	if err != nil {
		return err
	}
	return s.eng.WalkContainers(stream.Context(), sc.Namespace, func(c metadata.Container) error {
		return stream.Send(&containersapi.ListContainerMessage{Container: containerToWire(c)})
	}, req.Filters...)
}

func (s containerService) Create(ctx context.Context, req *containersapi.CreateContainerRequest) (*containersapi.CreateContainerResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	if req.Container == nil {
		return nil, missing("container")
	}
	c, err := s.eng.CreateContainer(ctx, sc.Namespace, containerFromWire(req.Container))
	if err != nil {
		return nil, err
	}
	return &containersapi.CreateContainerResponse{Container: containerToWire(c)}, nil
}

func (s containerService) Update(ctx context.Context, req *containersapi.UpdateContainerRequest) (*containersapi.UpdateContainerResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	if req.Container == nil {
		return nil, missing("container")
	}
	c, err := s.eng.UpdateContainer(ctx, sc.Namespace, containerFromWire(req.Container), req.UpdateMask.GetPaths()...)
	if err != nil {
		return nil, err
	}
	return &containersapi.UpdateContainerResponse{Container: containerToWire(c)}, nil
}

func (s containerService) Delete(ctx context.Context, req *containersapi.DeleteContainerRequest) (*emptypb.Empty, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, s.eng.DeleteContainer(ctx, sc.Namespace, req.ID)
}

func containerToWire(c metadata.Container) *containersapi.Container {
	w := &containersapi.Container{
		ID: c.ID, Labels: c.Labels, Image: c.Image,
		Runtime: &containersapi.Container_Runtime{Name: c.Runtime.Name, Options: toAny(c.Runtime.Options)},
		Spec:    toAny(c.Spec), Snapshotter: c.Snapshotter, SnapshotKey: c.SnapshotKey, Sandbox: c.SandboxID,
		CreatedAt: toTime(c.CreatedAt), UpdatedAt: toTime(c.UpdatedAt),
	}
	if len(c.Extensions) > 0 {
		w.Extensions = make(map[string]*anypb.Any, len(c.Extensions))
		for name, ext := range c.Extensions {
			w.Extensions[name] = toAny(&ext)
		}
	}
	return w
}

func containerFromWire(w *containersapi.Container) metadata.Container {
	c := metadata.Container{
		ID: w.ID, Labels: w.Labels, Image: w.Image,
		Runtime: metadata.Runtime{Name: w.Runtime.GetName(), Options: fromAny(w.Runtime.GetOptions())},
		Spec:    fromAny(w.Spec), Snapshotter: w.Snapshotter, SnapshotKey: w.SnapshotKey, SandboxID: w.Sandbox,
	}
	if len(w.Extensions) > 0 {
		c.Extensions = make(map[string]opaque.Any, len(w.Extensions))
		for name, ext := range w.Extensions {
			if ext != nil {
				c.Extensions[name] = *fromAny(ext)
			}
		}
	}
	return c
}
