package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/slipwayd/slipway/spec"
)

// maxRestored bounds the containers of one pod that is restored or checkpointed.
const maxRestored = 1024

func (s *runtimeService) CheckpointPod(ctx context.Context, r *runtime.CheckpointPodRequest) (*runtime.CheckpointPodResponse, error) {
	if err := noOptions(r.Options); err != nil {
		return nil, err
	}
	if n := len(r.ContainerIds); n == 0 || n > maxRestored {
		return nil, fmt.Errorf("a checkpoint of a pod has 1 to %d containers, not %d: %w", maxRestored, n, errdefs.ErrInvalidArgument)
	}
	return &runtime.CheckpointPodResponse{}, s.pods.CheckpointPod(ctx, r.PodSandboxId, r.OutputPath, r.ContainerIds)
}

func (s *runtimeService) RestorePod(ctx context.Context, r *runtime.RestorePodRequest) (*runtime.RestorePodResponse, error) {
	if err := noOptions(r.Options); err != nil {
		return nil, err
	}
	if n := len(r.ContainerConfigs); n == 0 || n > maxRestored {
		return nil, fmt.Errorf("a pod is restored with 1 to %d containers, not %d: %w", maxRestored, n, errdefs.ErrInvalidArgument)
	}
	pod, err := podFromWire(r.Config, r.RuntimeHandler, s.side)
	if err != nil {
		return nil, err
	}
	configs := make([]*spec.PodContainer, len(r.ContainerConfigs))
	for i, c := range r.ContainerConfigs {
		if configs[i], err = containerFromWire(c, s.side); err != nil {
			return nil, err
		}
	}
	id, ids, err := s.pods.RestorePod(ctx, r.CheckpointPath, pod, configs)
	if err != nil {
		return nil, err
	}
	resp := &runtime.RestorePodResponse{PodSandboxId: id}
	for i, c := range configs {
		resp.RestoredContainers = append(resp.RestoredContainers, &runtime.RestoredContainer{Name: c.Name, ContainerId: ids[i]})
	}
	return resp, nil
}

// noOptions refuses what CRI has to have refused: there are no options.
func noOptions(options map[string]string) error {
	if len(options) > 0 {
		return fmt.Errorf("checkpoints of pods have no options: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}
