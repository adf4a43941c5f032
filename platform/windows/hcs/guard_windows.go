package hcs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
)

// guardProperty is both the setting to change and the property to ask for (HCS schema reference: ContainerCredentialGuard*).
const guardProperty = "ContainerCredentialGuard"

type guardChange struct {
	PropertyType string
	Settings     guardOperation
}

type guardOperation struct {
	Operation        string
	OperationDetails guardDetails
}

type guardDetails struct {
	Id             string
	CredentialSpec string `json:",omitempty"`
	Transport      string `json:",omitempty"`
}

func (h *local) changeGuard(operation string, details guardDetails) error {
	request, err := json.Marshal(guardChange{guardProperty, guardOperation{operation, details}})
	if err != nil {
		return err
	}
	return h.vm.changeService(string(request))
}

func (h *local) AddGuard(ctx context.Context, id, credentialSpec string) (json.RawMessage, error) {
	if err := h.changeGuard("AddInstance", guardDetails{id, credentialSpec, "LRPC"}); err != nil {
		return nil, err
	}
	state, err := h.findGuard(id)
	if err != nil {
		return nil, errors.Join(err, h.RemoveGuard(ctx, id))
	}
	return state, nil
}

func (h *local) findGuard(id string) (json.RawMessage, error) {
	answer, err := h.vm.askService(`{"PropertyTypes":["` + guardProperty + `"]}`)
	if err != nil {
		return nil, err
	}
	var properties struct {
		Properties []struct {
			Instances []struct {
				Id              string
				CredentialGuard json.RawMessage
			}
		}
	}
	if err := json.Unmarshal([]byte(answer), &properties); err != nil {
		return nil, fmt.Errorf("cannot read the service's credential guards: %w", err)
	}
	for _, p := range properties.Properties {
		for _, i := range p.Instances {
			if i.Id == id {
				return i.CredentialGuard, nil
			}
		}
	}
	return nil, fmt.Errorf("the service lists no credential guard %s: %w", id, errdefs.ErrNotFound)
}

func (h *local) RemoveGuard(ctx context.Context, id string) error {
	err := h.changeGuard("RemoveInstance", guardDetails{Id: id})
	if err == nil {
		return nil
	}
	// What the service says of one that is not there is not documented.
	if _, listed := h.findGuard(id); errdefs.IsNotFound(listed) || errdefs.IsNotImplemented(listed) {
		return nil
	}
	return err
}
