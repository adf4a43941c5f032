package pods

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// forwardDial is how long a program in a pod has to take a connection.
	forwardDial = 30 * time.Second
	// forwardLinger is how long it may be silent after its client has said all: a client that is gone looks the same.
	forwardLinger = 5 * time.Minute
)

// Forward connects a client's stream with a port of a pod's loopback, until either side ends.
func (m *Manager) Forward(ctx context.Context, id string, port int32, stream io.ReadWriter) error {
	if port <= 0 || port > 65535 {
		return fmt.Errorf("%d is no port: %w", port, errdefs.ErrInvalidArgument)
	}
	p, err := m.Pod(id)
	if err != nil {
		return err
	}
	if !p.Ready {
		return fmt.Errorf("pod %s is not ready: %w", p.ID, errdefs.ErrFailedPrecondition)
	}
	ctx, cancel := m.living(ctx)
	defer cancel()
	dial, stop := context.WithTimeout(ctx, forwardDial)
	defer stop()
	conn, err := m.sys.dial(dial, p, uint16(port))
	if err != nil {
		return fmt.Errorf("cannot connect to port %d of pod %s: %w", port, p.ID, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	q := &quiet{TCPConn: conn}
	// The manager owns it, for the client's stream answers only after this verb has.
	m.wait.Go(func() {
		_, _ = io.Copy(conn, stream)
		_ = conn.CloseWrite()
		q.linger.Store(true)
		_ = conn.SetReadDeadline(time.Now().Add(forwardLinger))
	})
	_, err = io.Copy(stream, struct{ io.Reader }{q}) // nothing but its Read, for it alone knows of lingering
	return err
}

// quiet is a connection that ends when it is silent for long after its client has said all.
type quiet struct {
	*net.TCPConn
	linger atomic.Bool
}

func (q *quiet) Read(p []byte) (int, error) {
	if q.linger.Load() {
		if err := q.SetReadDeadline(time.Now().Add(forwardLinger)); err != nil {
			return 0, io.EOF // closed
		}
	}
	n, err := q.TCPConn.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
		err = io.EOF
	}
	return n, err
}
