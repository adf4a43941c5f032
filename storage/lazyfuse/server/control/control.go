// Package control is how slipwayd speaks to the FUSE server: one JSON object for each request and each answer, a line each,
// over a unix socket that only root may open.
//
// It owns the protocol and both its ends and imports neither FUSE nor anything of Slipway. The keeper holds the listening
// socket, so a client that connects while there is no server waits for the next one. What a crash leaves: nothing; a client
// whose server died in the middle of an answer sees Unavailable and asks again, since every request can be repeated.
package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/containerd/errdefs"
)

// Layer is an attached layer. Counts are since the server started.
type Layer struct {
	ID   string `json:"id"`
	Dir  string `json:"dir"` // its state, for the server's OpenFunc
	Slot uint32 `json:"slot"`

	Reads       int64 `json:"reads"` // FUSE reads, which the page cache and passthrough spare
	ReadBytes   int64 `json:"readBytes"`
	ReadErrors  int64 `json:"readErrors"`
	Opens       int64 `json:"opens"`
	PassedOpens int64 `json:"passedOpens"` // opens that the kernel serves by itself
	OpenCached  int   `json:"openCached"`  // descriptors now
	OpenPassed  int   `json:"openPassed"`

	Detail json.RawMessage `json:"detail,omitempty"` // what the layer says of itself
}

// Touch is the first time that a file was opened, and what was read of it since.
type Touch struct {
	Path   string     `json:"p"`           // one of its names, from the layer's root
	Millis int64      `json:"ms"`          // since Record, or the layer was attached, or the server started
	Ranges [][2]int64 `json:"r,omitempty"` // from, up to; reads that the kernel did by itself are not among them
	Whole  bool       `json:"w,omitempty"` // all of it was here: the kernel reads it by itself
}

// Wanted is what a start will read of a layer: ranges of a file, all of it when there are none. With an empty path it is what
// the layer's maker wants to be fetched first.
type Wanted struct {
	ID     string     `json:"id"` // of the layer
	Path   string     `json:"p,omitempty"`
	Ranges [][2]int64 `json:"r,omitempty"`
}

// Stats is the server as a whole.
type Stats struct {
	PID               int    `json:"pid"`
	Parent            int    `json:"parent"` // process id of the keeper, while it lives
	Passthrough       bool   `json:"passthrough"`
	PassthroughReason string `json:"passthroughReason,omitempty"` // why not
	Requests          int64  `json:"requests"`                    // but reads
	Panics            int64  `json:"panics"`

	Detail json.RawMessage `json:"detail,omitempty"` // what the cache and the fetcher say of themselves
}

type request struct {
	Op     string   `json:"op"` // attach, detach, layers, stats, record, touched, replay, send, handover
	ID     string   `json:"id,omitempty"`
	Dir    string   `json:"dir,omitempty"`
	Wanted []Wanted `json:"wanted,omitempty"`
	Offset int64    `json:"offset,omitempty"`
}

type response struct {
	Error  string  `json:"error,omitempty"`
	Kind   string  `json:"kind,omitempty"` // one of kinds
	Layers []Layer `json:"layers,omitempty"`
	Stats  *Stats  `json:"stats,omitempty"`

	Touched []Touch `json:"touched,omitempty"`
}

// maxLine is how long a request or an answer may be, in bytes.
const maxLine = 16 << 20

// kinds are the errors that are told apart on the other side.
var kinds = map[string]error{
	"already exists":      errdefs.ErrAlreadyExists,
	"data loss":           errdefs.ErrDataLoss,
	"failed precondition": errdefs.ErrFailedPrecondition,
	"invalid argument":    errdefs.ErrInvalidArgument,
	"not found":           errdefs.ErrNotFound,
	"unavailable":         errdefs.ErrUnavailable,
}

// Client speaks to the server behind a socket. It holds no connection and is safe for concurrent use.
type Client struct{ Socket string }

// Attach adds layer id, whose state is in dir, to the mount. AlreadyExists when it is there, which after an Unavailable means
// that the server attached it before it died.
func (c Client) Attach(ctx context.Context, id, dir string) error {
	_, err := c.call(ctx, request{Op: "attach", ID: id, Dir: dir})
	return err
}

// Detach takes a layer out of the mount. NotFound when there is none. Nothing may be mounted on it: its files fail from
// then on.
func (c Client) Detach(ctx context.Context, id string) error {
	_, err := c.call(ctx, request{Op: "detach", ID: id})
	return err
}

// Layers lists what is attached.
func (c Client) Layers(ctx context.Context) ([]Layer, error) {
	r, err := c.call(ctx, request{Op: "layers"})
	return r.Layers, err
}

// Stats answers how the server is.
func (c Client) Stats(ctx context.Context) (Stats, error) {
	r, err := c.call(ctx, request{Op: "stats"})
	if err != nil || r.Stats == nil {
		return Stats{}, err
	}
	return *r.Stats, nil
}

// Record has the server forget what was touched of a layer, and note it anew.
func (c Client) Record(ctx context.Context, id string) error {
	_, err := c.call(ctx, request{Op: "record", ID: id})
	return err
}

// Touched lists the files of a layer that were opened since Record, in the order of their first time: what a start profile is
// made of. Those whose names are not UTF-8 are left out.
func (c Client) Touched(ctx context.Context, id string) ([]Touch, error) {
	r, err := c.call(ctx, request{Op: "touched", ID: id})
	return r.Touched, err
}

// Replay has the server fetch what a start will read, of several layers, in about the order given. It answers at once. The fetching of
// a layer ends when it is detached, and is not taken up again after the server was killed. What is not there is left out.
func (c Client) Replay(ctx context.Context, wanted []Wanted) error {
	_, err := c.call(ctx, request{Op: "replay", Wanted: wanted})
	return err
}

// Blob streams the blob of a layer from off on: what readers have fetched of it, and the rest from where they would get it, behind
// all that they wait for. The stream just ends early when the server fails or dies; the caller, who knows the blob's length, closes
// it. NotFound when there is no such layer, Unavailable when there is no server.
func (c Client) Blob(ctx context.Context, id string, off int64) (io.ReadCloser, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(conn, 64<<10)
	undo := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	if _, err := c.ask(ctx, conn, in, request{Op: "send", ID: id, Offset: off}); err != nil {
		undo()
		return nil, errors.Join(err, conn.Close())
	}
	return &blobStream{Reader: in, conn: conn, undo: undo}, nil
}

type blobStream struct {
	io.Reader
	conn *net.UnixConn
	undo func() bool
}

func (b *blobStream) Close() error {
	b.undo()
	return b.conn.Close()
}

// call asks once. It is Unavailable when there is no server, or it died.
func (c Client) call(ctx context.Context, req request) (response, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return response{}, err
	}
	defer conn.Close()
	undo := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer undo()
	return c.ask(ctx, conn, bufio.NewReader(conn), req)
}

func (c Client) ask(ctx context.Context, conn *net.UnixConn, in *bufio.Reader, req request) (r response, err error) {
	if err := json.NewEncoder(conn).Encode(req); err != nil {
		return r, c.lost(ctx, req, err)
	}
	line, err := readLine(in)
	if err != nil {
		return r, c.lost(ctx, req, err)
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("cannot read what the FUSE server at %s answered: %w", c.Socket, err)
	}
	return r, r.err()
}

func (c Client) dial(ctx context.Context) (*net.UnixConn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.Socket)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the FUSE server at %s: %w: %w", c.Socket, err, errdefs.ErrUnavailable)
	}
	return conn.(*net.UnixConn), nil
}

func (c Client) lost(ctx context.Context, req request, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("cannot %s at the FUSE server: %w", req.Op, ctx.Err())
	}
	return fmt.Errorf("lost the FUSE server at %s during %s: %w: %w", c.Socket, req.Op, err, errdefs.ErrUnavailable)
}

func (r response) err() error {
	if r.Error == "" {
		return nil
	}
	if kind := kinds[r.Kind]; kind != nil {
		return remoteError{r.Error, kind}
	}
	return errors.New(r.Error)
}

// remoteError is an error of the other side with its kind, whose text the message already has.
type remoteError struct {
	text string
	kind error
}

func (e remoteError) Error() string { return e.text }
func (e remoteError) Unwrap() error { return e.kind }

func kindOf(err error) string {
	for name, kind := range kinds {
		if errors.Is(err, kind) {
			return name
		}
	}
	return ""
}

func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return line, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		case len(line) > maxLine:
			return nil, fmt.Errorf("a line of more than %d bytes", maxLine)
		}
	}
}
