package containerd

import (
	"context"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/storage"
)

type snapshotService struct {
	snapshotsapi.UnimplementedSnapshotsServer
	eng *engine.Engine
}

func registerSnapshots(r grpc.ServiceRegistrar, eng *engine.Engine, _ Options) {
	snapshotsapi.RegisterSnapshotsServer(r, snapshotService{eng: eng})
}

// of answers the snapshots that a request is about.
func (s snapshotService) of(ctx context.Context, snapshotter string) (*engine.Snapshots, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	return s.eng.Snapshots(sc, snapshotter)
}

func (s snapshotService) Prepare(ctx context.Context, req *snapshotsapi.PrepareSnapshotRequest) (*snapshotsapi.PrepareSnapshotResponse, error) {
	snaps, err := s.of(ctx, req.Snapshotter)
	if err != nil {
		return nil, err
	}
	mounts, err := snaps.Prepare(ctx, req.Key, req.Parent, req.Labels)
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.PrepareSnapshotResponse{Mounts: mountsToWire(mounts)}, nil
}

func (s snapshotService) View(ctx context.Context, req *snapshotsapi.ViewSnapshotRequest) (*snapshotsapi.ViewSnapshotResponse, error) {
	snaps, err := s.of(ctx, req.Snapshotter)
	if err != nil {
		return nil, err
	}
	mounts, err := snaps.View(ctx, req.Key, req.Parent, req.Labels)
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.ViewSnapshotResponse{Mounts: mountsToWire(mounts)}, nil
}

func (s snapshotService) Mounts(ctx context.Context, req *snapshotsapi.MountsRequest) (*snapshotsapi.MountsResponse, error) {
	snaps, err := s.of(ctx, req.Snapshotter)
	if err != nil {
		return nil, err
	}
	mounts, err := snaps.Mounts(ctx, req.Key)
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.MountsResponse{Mounts: mountsToWire(mounts)}, nil
}

func (s snapshotService) Commit(ctx context.Context, req *snapshotsapi.CommitSnapshotRequest) (*emptypb.Empty, error) {
	snaps, err := s.of(ctx, req.Snapshotter)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, snaps.Commit(ctx, req.Name, req.Key, req.Labels, req.Parent)
}

func (s snapshotService) Remove(ctx context.Context, req *snapshotsapi.RemoveSnapshotRequest) (*emptypb.Empty, error) {
	snaps, err := s.of(ctx, req.Snapshotter)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, snaps.Remove(ctx, req.Key)
}

func (s snapshotService) Stat(ctx context.Context, req *snapshotsapi.StatSnapshotRequest) (*snapshotsapi.StatSnapshotResponse, error) {
	snaps, err := s.of(ctx, req.Snapshotter)
	if err != nil {
		return nil, err
	}
	info, err := snaps.Stat(ctx, req.Key)
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.StatSnapshotResponse{Info: snapshotToWire(info)}, nil
}

func (s snapshotService) Update(ctx context.Context, req *snapshotsapi.UpdateSnapshotRequest) (*snapshotsapi.UpdateSnapshotResponse, error) {
	snaps, err := s.of(ctx, req.Snapshotter)
	if err != nil {
		return nil, err
	}
	if req.Info == nil {
		return nil, missing("info")
	}
	info, err := snaps.Update(ctx, metadata.Snapshot{Key: req.Info.Name, Labels: req.Info.Labels}, req.UpdateMask.GetPaths()...)
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.UpdateSnapshotResponse{Info: snapshotToWire(info)}, nil
}

func (s snapshotService) List(req *snapshotsapi.ListSnapshotsRequest, stream snapshotsapi.Snapshots_ListServer) error {
	snaps, err := s.of(stream.Context(), req.Snapshotter)
	if err != nil {
		return err
	}
	return snaps.Walk(stream.Context(), func(page []metadata.Snapshot) error {
		resp := &snapshotsapi.ListSnapshotsResponse{Info: make([]*snapshotsapi.Info, len(page))}
		for i, info := range page {
			resp.Info[i] = snapshotToWire(info)
		}
		return stream.Send(resp)
	}, req.Filters...)
}

func (s snapshotService) Usage(ctx context.Context, req *snapshotsapi.UsageRequest) (*snapshotsapi.UsageResponse, error) {
	snaps, err := s.of(ctx, req.Snapshotter)
	if err != nil {
		return nil, err
	}
	usage, err := snaps.Usage(ctx, req.Key)
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.UsageResponse{Size: usage.Size, Inodes: usage.Inodes}, nil
}

func (s snapshotService) Cleanup(ctx context.Context, req *snapshotsapi.CleanupRequest) (*emptypb.Empty, error) {
	snaps, err := s.of(ctx, req.Snapshotter)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, snaps.Cleanup(ctx)
}

func snapshotToWire(info metadata.Snapshot) *snapshotsapi.Info {
	kinds := map[storage.Kind]snapshotsapi.Kind{
		storage.Active: snapshotsapi.Kind_ACTIVE, storage.View: snapshotsapi.Kind_VIEW, storage.Committed: snapshotsapi.Kind_COMMITTED,
	}
	return &snapshotsapi.Info{
		Name: info.Key, Parent: info.Parent, Kind: kinds[info.Kind], Labels: info.Labels,
		CreatedAt: toTime(info.CreatedAt), UpdatedAt: toTime(info.UpdatedAt),
	}
}
