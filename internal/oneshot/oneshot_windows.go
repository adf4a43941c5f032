package oneshot

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/ipc"
)

// drainGrace is how long Drain waits for a writer to close the pipe. Who writes for a container does so when its process has ended.
const drainGrace = 10 * time.Second

// inletGrace is how long Open waits for the container's end of a pipe.
const inletGrace = 10 * time.Second

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
	l     net.Listener
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
	a.l.Close()
	<-a.ended
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
	conn, err := t.get(inletGrace)
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

// input writes to a connection that is its own, or its inlet's.
type input struct {
	from *accepted
	own  bool
	over chan struct{} // closed by close
	once *sync.Once
}

func newInput(path string) (*Input, error) {
	a, err := accept(path)
	if err != nil {
		return nil, err
	}
	return &Input{input{from: a, own: true, over: make(chan struct{}), once: &sync.Once{}}}, nil
}

func (i *input) copy(r io.Reader) error {
	conn, err := i.from.get(inletGrace)
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
	if i.own {
		i.from.close()
	}
}

type inlet struct{ a *accepted }

func newInlet(path string) (*Inlet, error) {
	a, err := accept(path)
	if err != nil {
		return nil, err
	}
	return &Inlet{inlet{a}}, nil
}

func findInlet(string) *Inlet { return &Inlet{} }

func (i *inlet) open() (*Input, error) {
	if i.a == nil {
		return nil, fmt.Errorf("the input ended with the daemon that made it: %w", errdefs.ErrNotFound)
	}
	if _, err := i.a.get(inletGrace); err != nil {
		return nil, err
	}
	return &Input{input{from: i.a, over: make(chan struct{}), once: &sync.Once{}}}, nil
}

func (i *inlet) end() { i.close() }

func (i *inlet) close() {
	if i.a != nil {
		i.a.close()
	}
}

func killTree(int) error { return nil }
