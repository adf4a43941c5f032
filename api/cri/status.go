package cri

import (
	"context"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Status tells kubelet whether pods can run. The conditions' names are CRI's.
func (s *runtimeService) Status(ctx context.Context, r *runtime.StatusRequest) (*runtime.StatusResponse, error) {
	network := &runtime.RuntimeCondition{Type: runtime.NetworkReady, Status: true}
	if err := s.pods.NetworkStatus(ctx); err != nil {
		network.Status, network.Reason, network.Message = false, "NetworkPluginNotReady", err.Error()
	}
	host := s.pods.Host()
	conf := s.pods.Config()
	all, features := s.side.features()
	resp := &runtime.StatusResponse{
		Status:   &runtime.RuntimeStatus{Conditions: []*runtime.RuntimeCondition{{Type: runtime.RuntimeReady, Status: true}, network}},
		Features: all,
	}
	resp.RuntimeHandlers = append(resp.RuntimeHandlers, &runtime.RuntimeHandler{Features: features}) // the default one has no name
	for name, r := range conf.Runtimes {
		h := &runtime.RuntimeHandler{Name: name, Features: features}
		if r.Foreign { // what it can do, only it knows
			h.Features = &runtime.RuntimeHandlerFeatures{}
		}
		resp.RuntimeHandlers = append(resp.RuntimeHandlers, h)
	}
	if r.Verbose {
		var err error
		resp.Info, err = info(map[string]any{"host": host, "runtimes": conf.Runtimes, "defaultRuntime": conf.DefaultRuntime, "pause": conf.Pause, "pulls": s.pods.Pulls()})
		return resp, err
	}
	return resp, nil
}

func (s *runtimeService) RuntimeConfig(context.Context, *runtime.RuntimeConfigRequest) (*runtime.RuntimeConfigResponse, error) {
	return s.side.config(s.pods.Config()), nil
}

// UpdateRuntimeConfig is told the node's range of addresses, which is in the network's configuration already.
func (s *runtimeService) UpdateRuntimeConfig(context.Context, *runtime.UpdateRuntimeConfigRequest) (*runtime.UpdateRuntimeConfigResponse, error) {
	return &runtime.UpdateRuntimeConfigResponse{}, nil
}
