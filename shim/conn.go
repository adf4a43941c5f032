package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/slipwayd/slipway/internal/ipc"
	"github.com/slipwayd/slipway/shim/server"
)

// connectTimeout is how long a shim may take to answer the first question. One that does not is left alone and tried again
// later: it must not hold up the rest.
const connectTimeout = 5 * time.Second

// conn is a connection to a living shim.
type conn struct {
	client  *ttrpc.Client
	service string        // of the version it speaks
	closed  chan struct{} // when the shim, or the connection, is gone
	pid     uint32        // 0 when it did not say
}

// connect dials a shim and asks whether it is there. id is a task of it, "" for a shim of ours.
func connect(ctx context.Context, address string, version int, ns, id string) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	raw, err := dial(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to shim at %s: %w: %w", address, err, errdefs.ErrUnavailable)
	}
	c := &conn{service: server.ServiceV3, closed: make(chan struct{})}
	if version < 3 {
		c.service = server.ServiceV2
	}
	c.client = ttrpc.NewClient(raw, ttrpc.WithOnClose(func() { close(c.closed) }))
	var resp task.ConnectResponse
	err = c.call(ctx, ns, "Connect", &task.ConnectRequest{ID: id}, &resp)
	// A shim that has no such task, or does not want to say, is a shim that answers.
	if errors.Is(err, errdefs.ErrUnavailable) || ctx.Err() != nil {
		c.client.Close()
		return nil, fmt.Errorf("shim at %s does not answer: %w", address, err)
	}
	c.pid = resp.ShimPid
	return c, nil
}

func dial(ctx context.Context, address string) (net.Conn, error) {
	path := address
	if scheme, rest, ok := strings.Cut(address, "://"); ok {
		if scheme != "unix" && scheme != "ttrpc+unix" {
			return nil, fmt.Errorf("cannot use addresses of kind %s: %w", scheme, errdefs.ErrNotImplemented)
		}
		path = rest
	}
	return ipc.Dial(ctx, path)
}

// call makes one RPC. Errors have errdefs kinds; Unavailable means that nobody knows whether it was done.
func (c *conn) call(ctx context.Context, ns, method string, req, resp any) error {
	return c.callService(ctx, c.service, ns, method, req, resp)
}

func (c *conn) callService(ctx context.Context, service, ns, method string, req, resp any) error {
	if ns != "" {
		ctx = ttrpc.WithMetadata(ctx, ttrpc.MD{server.NamespaceHeader: {ns}})
	}
	err := c.client.Call(ctx, service, method, req, resp)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ttrpc.ErrClosed), errors.Is(err, net.ErrClosed), ipc.Broken(err):
		return fmt.Errorf("the shim went away during %s: %w", method, errdefs.ErrUnavailable)
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return fmt.Errorf("the shim did not answer %s in time: %w", method, err)
	}
	return errgrpc.ToNative(err)
}

// alive is false once the connection is lost.
func (c *conn) alive() bool {
	if c == nil {
		return false
	}
	select {
	case <-c.closed:
		return false
	default:
		return true
	}
}
