package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/containerd/errdefs"
)

// Handler is what a server does for its clients. Errors should have an errdefs kind.
type Handler interface {
	Attach(id, dir string) error
	Detach(id string) error
	Layers() []Layer
	Stats() Stats
	Record(id string) error
	Touched(id string) ([]Touch, error)
	Replay(wanted []Wanted) error
	// Send answers how to send the blob of a layer from off on.
	Send(id string, off int64) (func(ctx context.Context, to io.Writer) error, error)
}

// Handover is what a server passes to a keeper that found it without one.
type Handover struct {
	Files []*os.File // in an order that server and keeper agree on
	Done  func()     // called when the keeper has them; the process should end
}

// Serve answers clients until ctx is done or the listener fails. It waits for those it is answering, and for whatever
// the handler does for them.
func Serve(ctx context.Context, l *net.UnixListener, h Handler, over Handover) error {
	var clients sync.WaitGroup
	defer clients.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	undo := context.AfterFunc(ctx, func() { l.Close() })
	defer undo()
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot accept clients of the FUSE server: %w", err)
		}
		clients.Add(1)
		go func() {
			defer clients.Done()
			undo := context.AfterFunc(ctx, func() { conn.Close() })
			defer undo()
			defer conn.Close()
			_ = serveConn(ctx, conn, h, over) // the client sees that the connection ends
		}()
	}
}

func serveConn(ctx context.Context, conn *net.UnixConn, h Handler, over Handover) error {
	in, out := bufio.NewReader(conn), json.NewEncoder(conn)
	for {
		line, err := readLine(in)
		if err != nil {
			return err
		}
		var req request
		if err := json.Unmarshal(line, &req); err != nil {
			return errors.Join(err, out.Encode(response{Error: "cannot read the request: " + err.Error(), Kind: "invalid argument"}))
		}
		if req.Op == "handover" {
			return handOver(conn, in, over)
		}
		if req.Op == "send" {
			return sendBlob(ctx, conn, out, req, h)
		}
		if err := out.Encode(answer(req, h)); err != nil {
			return err
		}
	}
}

// sendBlob answers with a line and, if that has no error, the blob up to the connection's end.
func sendBlob(ctx context.Context, conn *net.UnixConn, out *json.Encoder, req request, h Handler) error {
	send, err := h.Send(req.ID, req.Offset)
	if err != nil {
		return errors.Join(err, out.Encode(response{Error: err.Error(), Kind: kindOf(err)}))
	}
	if err := out.Encode(response{}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { // the client says no more; it may go
		_, _ = io.Copy(io.Discard, conn)
		cancel()
	})
	err = send(ctx, conn)
	err = errors.Join(err, conn.Close())
	watch.Wait()
	return err
}

func answer(req request, h Handler) (r response) {
	var err error
	switch req.Op {
	case "attach":
		err = h.Attach(req.ID, req.Dir)
	case "detach":
		err = h.Detach(req.ID)
	case "layers":
		r.Layers = h.Layers()
	case "stats":
		stats := h.Stats()
		r.Stats = &stats
	case "touched":
		r.Touched, err = h.Touched(req.ID)
	case "record":
		err = h.Record(req.ID)
	case "replay":
		err = h.Replay(req.Wanted)
	default:
		err = fmt.Errorf("cannot do %q, this FUSE server knows attach, detach, layers, stats, record, touched, replay, send and handover: %w", req.Op, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		r.Error, r.Kind = err.Error(), kindOf(err)
	}
	return r
}
