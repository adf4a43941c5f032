package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/metadata"
)

// readChunk is how many bytes of a blob go into one message of Read.
const readChunk = 256 << 10

type contentService struct {
	contentapi.UnimplementedContentServer
	eng *engine.Engine
}

func registerContent(r grpc.ServiceRegistrar, eng *engine.Engine, _ Options) {
	contentapi.RegisterContentServer(r, contentService{eng: eng})
}

// of answers the content that the caller sees.
func (s contentService) of(ctx context.Context) (*engine.Content, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	return s.eng.Content(sc), nil
}

func (s contentService) Info(ctx context.Context, req *contentapi.InfoRequest) (*contentapi.InfoResponse, error) {
	store, err := s.of(ctx)
	if err != nil {
		return nil, err
	}
	dgst, err := parseDigest(req.Digest)
	if err != nil {
		return nil, err
	}
	b, err := store.Blob(ctx, dgst)
	if err != nil {
		return nil, err
	}
	return &contentapi.InfoResponse{Info: blobToWire(b)}, nil
}

func (s contentService) Update(ctx context.Context, req *contentapi.UpdateRequest) (*contentapi.UpdateResponse, error) {
	store, err := s.of(ctx)
	if err != nil {
		return nil, err
	}
	if req.Info == nil {
		return nil, missing("info")
	}
	dgst, err := parseDigest(req.Info.Digest)
	if err != nil {
		return nil, err
	}
	b, err := store.Update(ctx, metadata.Blob{Digest: dgst, Labels: req.Info.Labels}, req.UpdateMask.GetPaths()...)
	if err != nil {
		return nil, err
	}
	return &contentapi.UpdateResponse{Info: blobToWire(b)}, nil
}

func (s contentService) List(req *contentapi.ListContentRequest, stream contentapi.Content_ListServer) error {
	store, err := s.of(stream.Context())
	if err != nil {
		return err
	}
	return store.Pages(stream.Context(), func(page []metadata.Blob) error {
		resp := &contentapi.ListContentResponse{Info: make([]*contentapi.Info, len(page))}
		for i, b := range page {
			resp.Info[i] = blobToWire(b)
		}
		return stream.Send(resp)
	}, req.Filters...)
}

func (s contentService) Delete(ctx context.Context, req *contentapi.DeleteContentRequest) (*emptypb.Empty, error) {
	store, err := s.of(ctx)
	if err != nil {
		return nil, err
	}
	dgst, err := parseDigest(req.Digest)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, store.Delete(ctx, dgst)
}

// Read sends size bytes from offset, fewer when there are no more: clients that do not know a blob's size (BuildKit) ask for as much as
// they have room for. A size of 0 is all that is left. OutOfRange for an offset behind the end.
func (s contentService) Read(req *contentapi.ReadContentRequest, stream contentapi.Content_ReadServer) error {
	store, err := s.of(stream.Context())
	if err != nil {
		return err
	}
	dgst, err := parseDigest(req.Digest)
	if err != nil {
		return err
	}
	blob, err := store.ReaderAt(stream.Context(), ocispec.Descriptor{Digest: dgst})
	if err != nil {
		return err
	}
	defer blob.Close()
	offset := max(req.Offset, 0)
	if offset > blob.Size() {
		return fmt.Errorf("offset %d is behind the end of blob %s of %d bytes: %w", req.Offset, dgst, blob.Size(), errdefs.ErrOutOfRange)
	}
	end := blob.Size()
	if req.Size > 0 {
		end = offset + min(req.Size, end-offset)
	}
	buf := make([]byte, min(readChunk, end-offset))
	for offset < end {
		n, err := blob.ReadAt(buf[:min(int64(len(buf)), end-offset)], offset)
		if n > 0 {
			// Send has encoded the message when it returns, so buf may be filled again.
			if err := stream.Send(&contentapi.ReadContentResponse{Offset: offset, Data: buf[:n]}); err != nil {
				return err
			}
			offset += int64(n)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("cannot read blob %s: %w", dgst, err)
		}
		if n == 0 && offset < end {
			return fmt.Errorf("blob %s ends at %d of %d bytes: %w", dgst, offset, blob.Size(), errdefs.ErrDataLoss)
		}
	}
	return nil
}

func (s contentService) Status(ctx context.Context, req *contentapi.StatusRequest) (*contentapi.StatusResponse, error) {
	store, err := s.of(ctx)
	if err != nil {
		return nil, err
	}
	st, err := store.Status(ctx, req.Ref)
	if err != nil {
		return nil, err
	}
	return &contentapi.StatusResponse{Status: statusToWire(st)}, nil
}

func (s contentService) ListStatuses(ctx context.Context, req *contentapi.ListStatusesRequest) (*contentapi.ListStatusesResponse, error) {
	store, err := s.of(ctx)
	if err != nil {
		return nil, err
	}
	all, err := store.Statuses(ctx, req.Filters...)
	if err != nil {
		return nil, err
	}
	resp := &contentapi.ListStatusesResponse{}
	for _, st := range all {
		resp.Statuses = append(resp.Statuses, statusToWire(st))
	}
	return resp, nil
}

func (s contentService) Abort(ctx context.Context, req *contentapi.AbortRequest) (*emptypb.Empty, error) {
	store, err := s.of(ctx)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, store.Abort(ctx, req.Ref)
}

func blobToWire(b metadata.Blob) *contentapi.Info {
	return &contentapi.Info{
		Digest: b.Digest.String(), Size: b.Size, Labels: b.Labels,
		CreatedAt: toTime(b.CreatedAt), UpdatedAt: toTime(b.UpdatedAt),
	}
}

func statusToWire(st content.Ingest) *contentapi.Status {
	return &contentapi.Status{
		StartedAt: toTime(st.StartedAt), UpdatedAt: toTime(st.UpdatedAt), Ref: st.Ref,
		Offset: st.Offset, Total: st.Total, Expected: st.Expected.String(),
	}
}
