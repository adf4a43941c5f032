package oneshot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/ipc"
)

// drainGrace is how long Drain waits for a writer to close the pipe. Who writes for a container does so when its process has ended.
const drainGrace = 10 * time.Second

// inputGrace is how long a pipe's other end may take to connect.
const inputGrace = 10 * time.Second

func name(_, stream string) string { return `\\.\pipe\slipway-` + stream + "-" + rand.Text() }

// output takes one writer after the other: when a shim dies its successor connects anew.
type output struct {
	l     net.Listener
	to    io.Writer // nil when it is kept
	limit int
	kept  []byte
	ended chan struct{} // closed when the reader has stopped

	mu       sync.Mutex
	conn     net.Conn // nil between writers
	seen     bool     // there was a writer
	draining bool
}

func newOutput(path string, limit int) (*Output, error) {
	return begin(path, &Output{output{limit: limit}})
}

func newCopy(path string, w io.Writer) (*Output, error) {
	return begin(path, &Output{output{to: w}})
}

func begin(path string, o *Output) (*Output, error) {
	var err error
	if o.l, err = ipc.Listen(path); err != nil {
		return nil, err
	}
	o.ended = make(chan struct{})
	go o.read()
	return o, nil
}

func (o *output) read() {
	defer close(o.ended)
	buf := make([]byte, 32<<10)
	for {
		conn, err := o.l.Accept()
		if err != nil {
			return
		}
		o.hold(conn)
		for {
			n, err := conn.Read(buf)
			o.keep(buf[:n])
			if err != nil {
				break
			}
		}
		conn.Close()
		if o.hold(nil) {
			return
		}
	}
}

// hold says who writes now, and answers whether that was the last to.
func (o *output) hold(conn net.Conn) (last bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.conn, o.seen = conn, true
	return o.draining
}

func (o *output) keep(b []byte) {
	if o.to != nil && len(b) > 0 {
		if _, err := o.to.Write(b); err != nil {
			o.to = io.Discard
		}
	}
	if o.to != nil {
		return
	}
	o.kept = append(o.kept, b[:min(len(b), o.limit-len(o.kept))]...)
}

func (o *output) drain() ([]byte, error) {
	o.mu.Lock()
	o.draining = true
	idle := o.conn == nil && o.seen
	o.mu.Unlock()
	if !idle { // the writer has closed, or will; or it has connected and waits to be accepted
		timer := time.NewTimer(drainGrace)
		defer timer.Stop()
		select {
		case <-o.ended:
		case <-timer.C:
		}
	}
	o.close()
	return o.kept, nil
}

func (o *output) close() {
	o.l.Close()
	o.mu.Lock()
	if o.conn != nil {
		o.conn.Close()
	}
	o.draining = true
	o.mu.Unlock()
	<-o.ended
}

// accepted is the first connection to a pipe; no other is taken.
type accepted struct {
	l     net.Listener  // nil when none is waited for
	ended chan struct{} // closed when there is a connection, or will be none

	mu     sync.Mutex
	conn   net.Conn
	closed bool
}

func accept(path string) (*accepted, error) {
	l, err := ipc.Listen(path)
	if err != nil {
		return nil, err
	}
	a := &accepted{l: l, ended: make(chan struct{})}
	go func() { // its owner is who calls close, which ends it
		defer close(a.ended)
		conn, err := l.Accept()
		l.Close()
		if err != nil {
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.closed {
			conn.Close()
			return
		}
		a.conn = conn
	}()
	return a, nil
}

// get waits for the connection; NotFound when there is none.
func (a *accepted) get(grace time.Duration) (net.Conn, error) {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-a.ended:
	case <-timer.C:
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conn == nil || a.closed {
		return nil, fmt.Errorf("nobody has the other end of the pipe: %w", errdefs.ErrNotFound)
	}
	return a.conn, nil
}

func (a *accepted) close() {
	a.mu.Lock()
	a.closed = true
	if a.conn != nil {
		a.conn.Close()
	}
	a.mu.Unlock()
	if a.l != nil {
		a.l.Close()
	}
	<-a.ended
}

// connected is one that needs nobody to come.
func connected(conn net.Conn) *accepted {
	a := &accepted{conn: conn, ended: make(chan struct{})}
	close(a.ended)
	return a
}

type tap struct {
	*accepted
	to io.Writer
}

func newTap(path string, w io.Writer) (*Tap, error) {
	a, err := accept(path)
	if err != nil {
		return nil, err
	}
	return &Tap{tap{a, w}}, nil
}

func (t *tap) copy() error {
	conn, err := t.get(inputGrace)
	if err != nil {
		return err
	}
	_, err = io.Copy(t.to, reader{conn})
	return err
}

// reader takes the loss of the other end for the end of what it wrote.
type reader struct{ conn net.Conn }

func (r reader) Read(p []byte) (int, error) {
	n, err := r.conn.Read(p)
	if err != nil && ipc.Broken(err) && !errors.Is(err, net.ErrClosed) {
		err = io.EOF
	}
	return n, err
}

// input writes to the first who connects, or to whom it has connected to.
type input struct {
	from *accepted
	over chan struct{} // closed by close
	once *sync.Once
}

func newInput(path string) (*Input, error) {
	a, err := accept(path)
	if err != nil {
		return nil, err
	}
	return inputOf(a), nil
}

func inputOf(a *accepted) *Input {
	return &Input{input{from: a, over: make(chan struct{}), once: &sync.Once{}}}
}

func makeInlet(path string) (string, error) {
	return (&url.URL{Scheme: "inlet", Path: "/" + filepath.ToSlash(path)}).String(), nil // package shim/stdio
}

func openInput(ctx context.Context, path string) (*Input, error) {
	conn, err := ipc.Dial(ctx, path)
	if err != nil && ipc.Nobody(err) {
		err = fmt.Errorf("nobody reads the pipe of %s: %w", path, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	// One byte says that the connection is taken. What is written into one before, and closed, would be lost.
	if err = conn.SetReadDeadline(time.Now().Add(inputGrace)); err == nil {
		_, err = io.ReadFull(conn, make([]byte, 1))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the pipe of %s is not answered: %w: %w", path, err, errdefs.ErrUnavailable), conn.Close())
	}
	return inputOf(connected(conn)), nil
}

func (i *input) copy(r io.Reader) error {
	conn, err := i.from.get(inputGrace)
	if err != nil {
		return err
	}
	_, err = io.Copy(conn, until{r, i.over})
	return err
}

// until is at its end once over is closed.
type until struct {
	r    io.Reader
	over chan struct{}
}

func (u until) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	select {
	case <-u.over:
		return 0, io.EOF
	default:
		return n, err
	}
}

func (i *input) close() {
	i.once.Do(func() { close(i.over) })
	i.from.close()
}

func killTree(int) error { return nil }
