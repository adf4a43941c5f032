// Package cri serves Kubernetes' Container Runtime Interface, runtime/v1 of k8s.io/cri-api, over package engine/pods.
//
// It owns the translation between the wire and those verbs, and no state. It never imports metadata's database, drivers or
// shims; errors get their codes from the interceptor of the server it is registered with. A crash leaves nothing of it.
package cri

import (
	"context"

	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/slipwayd/slipway/engine/pods"
)

// Options of the services.
type Options struct {
	Version   string     // of Slipway
	Streaming *Streaming // nil: exec, attach and port-forward fail
}

// Register adds both services to a server.
func Register(s grpc.ServiceRegistrar, m *pods.Manager, o Options) {
	runtime.RegisterRuntimeServiceServer(s, &runtimeService{pods: m, options: o, side: thisSide()})
	runtime.RegisterImageServiceServer(s, &imageService{pods: m})
}

// runtimeService is RuntimeService; its verbs are in files by theme.
type runtimeService struct {
	runtime.UnimplementedRuntimeServiceServer
	pods    *pods.Manager
	options Options
	side    side
}

// version of the Kubelet's side of the runtime API (CRI's VersionRequest), which never changed.
const kubeletAPI = "0.1.0"

func (s *runtimeService) Version(context.Context, *runtime.VersionRequest) (*runtime.VersionResponse, error) {
	return &runtime.VersionResponse{
		Version: kubeletAPI, RuntimeName: "slipway", RuntimeVersion: s.options.Version, RuntimeApiVersion: "v1",
	}, nil
}
