package slipway

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/metadata"

	slipwayv1 "github.com/slipwayd/slipway/api/slipway/v1"
	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/internal/opaque"
	records "github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/shim"
)

// specURL types the document in a record (containerd's convention for JSON in an Any).
const specURL = "types.containerd.io/opencontainers/runtime-spec/1/Spec"

type containers struct {
	slipwayv1.UnimplementedContainersServer
	engine *engine.Engine
}

func (c *containers) Create(ctx context.Context, req *slipwayv1.CreateContainerRequest) (*slipwayv1.CreateContainerResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	if req.Runtime == "" || len(req.Spec) == 0 || req.Parent == "" {
		return nil, fmt.Errorf("container %q needs a parent, a runtime and a spec: %w", req.Id, errdefs.ErrInvalidArgument)
	}
	record := records.Container{
		ID: req.Id, Image: req.Image, Labels: req.Labels, Runtime: records.Runtime{Name: req.Runtime},
		Spec: &opaque.Any{TypeURL: specURL, Value: req.Spec}, Snapshotter: req.Snapshotter, SnapshotKey: req.Id,
	}
	if record.Snapshotter == "" {
		record.Snapshotter = c.engine.DefaultDriver()
	}
	made, err := c.engine.CreateContainerOn(ctx, sc, record, req.Parent, nil)
	if err != nil {
		return nil, err
	}
	return &slipwayv1.CreateContainerResponse{Snapshotter: made.Snapshotter, CreatedAt: made.CreatedAt.UnixNano()}, nil
}

func (c *containers) Remove(ctx context.Context, req *slipwayv1.RemoveContainerRequest) (*slipwayv1.RemoveContainerResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	record, err := c.engine.GetContainer(ctx, sc.Namespace, req.Id)
	if err != nil {
		return nil, err
	}
	return &slipwayv1.RemoveContainerResponse{}, c.engine.RemoveContainer(ctx, sc.Namespace, record)
}

// maxAsked bounds the ids of one request.
const maxAsked = 10_000

func (c *containers) States(ctx context.Context, req *slipwayv1.ContainerStatesRequest) (*slipwayv1.ContainerStatesResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	if len(req.Ids) > maxAsked {
		return nil, fmt.Errorf("%d ids in one request are more than %d: %w", len(req.Ids), maxAsked, errdefs.ErrInvalidArgument)
	}
	var states []shim.State
	for _, id := range req.Ids {
		st, err := c.engine.Tasks().State(ctx, sc.Namespace, id, "")
		if errdefs.IsNotFound(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		states = append(states, st)
	}
	if len(req.Ids) == 0 {
		if states, err = c.engine.Tasks().List(ctx, sc.Namespace); err != nil {
			return nil, err
		}
	}
	resp := &slipwayv1.ContainerStatesResponse{States: make([]*slipwayv1.ContainerState, len(states))}
	for i, st := range states {
		resp.States[i] = stateToWire(st)
	}
	return resp, nil
}

func stateToWire(st shim.State) *slipwayv1.ContainerState {
	w := &slipwayv1.ContainerState{Id: st.ID, State: "unknown", Pid: st.Pid, OomKilled: st.OOMKilled}
	switch st.Status {
	case shim.Created:
		w.State = "created"
	case shim.Running:
		w.State = "running"
	case shim.Paused, shim.Pausing:
		w.State = "paused"
	case shim.Stopped:
		w.State, w.ExitCode, w.ExitedAt = "stopped", st.ExitStatus, st.ExitedAt.UnixNano()
	}
	return w
}

// scope reads in whose namespace a call is made, from the header that containerd's API uses. FailedPrecondition without it.
func scope(ctx context.Context) (engine.Scope, error) {
	const header = "containerd-namespace"
	md, _ := metadata.FromIncomingContext(ctx)
	ns := md.Get(header)
	if len(ns) == 0 || ns[0] == "" {
		return engine.Scope{}, fmt.Errorf("call names no namespace, send the header %s: %w", header, errdefs.ErrFailedPrecondition)
	}
	return engine.Scope{Namespace: ns[0]}, engine.CheckNamespace(ns[0])
}
