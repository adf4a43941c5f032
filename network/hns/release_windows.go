package hns

import (
	"context"
	"errors"

	"github.com/slipwayd/slipway/network"
)

// LabelNamespace is on a container that its client gave a namespace and an endpoint of its own: the namespace's GUID, which is the endpoint's
// pod too.
const LabelNamespace = "slipway.io/hns-namespace"

// Release gives back what LabelNamespace among a container's labels tells of; nil without it, or when it is gone. Whoever deletes the container's
// record calls it before.
func Release(ctx context.Context, labels map[string]string) error {
	id := labels[LabelNamespace]
	if id == "" {
		return nil
	}
	service, err := Open(Default.Name)
	if err != nil {
		return err
	}
	return errors.Join(service.Detach(ctx, network.Pod{ID: id}), service.RemoveNamespace(ctx, id))
}
