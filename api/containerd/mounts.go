package containerd

import (
	"context"
	"fmt"

	mountsapi "github.com/containerd/containerd/api/services/mounts/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/slipwayd/slipway/engine"
)

// mountService activates mounts that the system's mount(2) cannot make by itself. No driver of Slipway answers such, so
// there is never anything to activate, which clients take from NotImplemented: they then mount what they have.
type mountService struct {
	mountsapi.UnimplementedMountsServer
}

func registerMounts(r grpc.ServiceRegistrar, _ *engine.Engine, _ Options) {
	mountsapi.RegisterMountsServer(r, mountService{})
}

func (mountService) Activate(ctx context.Context, req *mountsapi.ActivateRequest) (*mountsapi.ActivateResponse, error) {
	if _, err := scope(ctx); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("mounts of %q need no activation, mount them as they are: %w", req.Name, errdefs.ErrNotImplemented)
}

func (mountService) Deactivate(ctx context.Context, req *mountsapi.DeactivateRequest) (*emptypb.Empty, error) {
	return nil, noActivation(ctx, req.Name)
}

func (mountService) Info(ctx context.Context, req *mountsapi.InfoRequest) (*mountsapi.InfoResponse, error) {
	return nil, noActivation(ctx, req.Name)
}

func (mountService) List(_ *mountsapi.ListRequest, stream mountsapi.Mounts_ListServer) error {
	_, err := scope(stream.Context())
	return err
}

func noActivation(ctx context.Context, name string) error {
	if _, err := scope(ctx); err != nil {
		return err
	}
	return fmt.Errorf("activation %q: %w", name, errdefs.ErrNotFound)
}
