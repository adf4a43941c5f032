package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/engine"
)

// Write serves one writer: the first message names the ref and opens it, which locks it until the stream ends; each message
// gets an answer; a commit ends the stream.
func (s contentService) Write(stream contentapi.Content_WriteServer) (err error) {
	ctx := stream.Context()
	store, err := s.of(ctx)
	if err != nil {
		return err
	}
	req, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return missing("first message")
	}
	if err != nil {
		return err
	}
	w := contentWrite{store: store, ref: req.Ref}
	if err := w.expect(req); err != nil {
		return err
	}
	w.w, err = store.Open(ctx, req.Ref, ocispec.Descriptor{Digest: w.expected, Size: w.total})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.w.Close()) }()
	for {
		resp, err := w.handle(ctx, req)
		if err != nil {
			return err
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
		if req.Action == contentapi.WriteAction_COMMIT {
			return nil
		}
		if req, err = stream.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// contentWrite is the state of one Write stream.
type contentWrite struct {
	store    *engine.Content
	w        *engine.Writer
	ref      string
	total    int64
	expected digest.Digest
}

// expect takes over what a message says of the whole blob; the last to say something counts.
func (w *contentWrite) expect(req *contentapi.WriteContentRequest) error {
	if req.Ref != "" && req.Ref != w.ref {
		return fmt.Errorf("stream writes ingest %q and cannot go over to %q: %w", w.ref, req.Ref, errdefs.ErrInvalidArgument)
	}
	if req.Total > 0 {
		w.total = req.Total
	}
	if req.Expected != "" {
		dgst, err := parseDigest(req.Expected)
		if err != nil {
			return err
		}
		w.expected = dgst
	}
	return nil
}

func (w *contentWrite) handle(ctx context.Context, req *contentapi.WriteContentRequest) (*contentapi.WriteContentResponse, error) {
	if err := w.expect(req); err != nil {
		return nil, err
	}
	st, err := w.w.Status()
	if err != nil {
		return nil, err
	}
	resp := &contentapi.WriteContentResponse{
		Action: req.Action, StartedAt: toTime(st.StartedAt), UpdatedAt: toTime(st.UpdatedAt),
		Offset: st.Offset, Total: max(st.Total, w.total),
	}
	switch req.Action {
	case contentapi.WriteAction_STAT:
	case contentapi.WriteAction_WRITE, contentapi.WriteAction_COMMIT:
		if resp.Offset, err = w.write(req, st.Offset); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("write action %d is not known: %w", req.Action, errdefs.ErrInvalidArgument)
	}
	resp.Digest = w.w.Digest().String()
	if req.Action == contentapi.WriteAction_COMMIT {
		if w.total > 0 && resp.Offset != w.total {
			return nil, fmt.Errorf("ingest %q has %d bytes, not %d: %w", w.ref, resp.Offset, w.total, errdefs.ErrFailedPrecondition)
		}
		if err := w.w.CommitLabels(ctx, w.total, w.expected, req.Labels); err != nil {
			return nil, err
		}
		if w.expected != "" {
			resp.Digest = w.expected.String()
		}
	}
	return resp, nil
}

// write puts the data of a message at its offset, which must be the end, or 0 to begin again, and answers the new end.
func (w *contentWrite) write(req *contentapi.WriteContentRequest, end int64) (int64, error) {
	if req.Offset != 0 && req.Offset != end || req.Offset < 0 {
		return end, fmt.Errorf("ingest %q goes on at %d, not at %d: %w", w.ref, end, req.Offset, errdefs.ErrOutOfRange)
	}
	if len(req.Data) == 0 {
		return end, nil
	}
	if req.Offset == 0 && end > 0 {
		if err := w.w.Truncate(0); err != nil {
			return end, err
		}
		end = 0
	}
	n, err := w.w.Write(req.Data)
	return end + int64(n), err
}
