package containerd

import (
	"context"

	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/slipwayd/slipway/engine"
)

type versionService struct {
	versionapi.UnimplementedVersionServer
	version, revision string
}

func registerVersion(r grpc.ServiceRegistrar, _ *engine.Engine, o Options) {
	versionapi.RegisterVersionServer(r, versionService{version: o.Version, revision: o.Revision})
}

func (s versionService) Version(context.Context, *emptypb.Empty) (*versionapi.VersionResponse, error) {
	return &versionapi.VersionResponse{Version: s.version, Revision: s.revision}, nil
}
