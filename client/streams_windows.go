package client

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/slipwayd/slipway/internal/ipc"
)

// open listens at a pipe for each stream, which the shim dials, and begins to copy.
func (s Streams) open(ctx context.Context) (_ *attached, err error) {
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	a := &attached{stop: stop}
	defer func() {
		if err != nil {
			a.cancel()
			err = fmt.Errorf("cannot open pipes for the streams: %w", err)
		}
	}()
	if s.LogURI != "" {
		a.stdout, a.stderr = s.LogURI, s.LogURI
		if s.Terminal {
			a.stderr = ""
		}
	}
	if s.Stdin != nil {
		p, err := a.listen(life, &a.stdin, "stdin")
		if err != nil {
			return nil, err
		}
		a.inputEnded = make(chan struct{})
		go func() { // ends with the reader or with the pipe; nobody waits, for a console's input never ends
			defer close(a.inputEnded)
			_, _ = io.Copy(p, s.Stdin)
			p.finish()
		}()
	}
	for _, out := range []struct {
		name *string
		w    io.Writer
		what string
	}{{&a.stdout, s.Stdout, "stdout"}, {&a.stderr, s.Stderr, "stderr"}} {
		if out.w == nil || *out.name != "" || s.Terminal && out.what == "stderr" {
			continue
		}
		p, err := a.listen(life, out.name, out.what)
		if err != nil {
			return nil, err
		}
		a.copyOut(out.w, p)
	}
	return a, nil
}

// listen makes a pipe for one stream, under a name that nobody can guess.
func (a *attached) listen(life context.Context, name *string, what string) (*pipe, error) {
	path := `\\.\pipe\slipway-` + rand.Text() + "-" + what
	l, err := ipc.Listen(path)
	if err != nil {
		return nil, err
	}
	p := &pipe{listener: l, life: life, accepted: make(chan net.Conn), ended: make(chan struct{})}
	a.closers = append(a.closers, p)
	a.ending = append(a.ending, sync.OnceFunc(func() { close(p.ended) }))
	go p.accept()
	*name = path
	return p, nil
}

// pipe is one stream at the client, to read or to write. A shim that dies closes its side; its successor dials again, and the stream goes
// on: it ends when its process has.
type pipe struct {
	listener net.Listener
	life     context.Context
	accepted chan net.Conn
	ended    chan struct{} // closed when the process has ended: what a shim closes then stays closed

	mu  sync.Mutex
	cur net.Conn
}

// accept ends with the listener.
func (p *pipe) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		select {
		case p.accepted <- c:
		case <-p.life.Done():
			_ = c.Close()
		}
	}
}

// connection is the shim's, waited for if need be; nil when there will be none any more.
func (p *pipe) connection() net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cur != nil {
		return p.cur
	}
	select {
	case p.cur = <-p.accepted:
		return p.cur
	default:
	}
	select {
	case p.cur = <-p.accepted:
	case <-p.ended:
	case <-p.life.Done():
	}
	return p.cur
}

// lose closes a connection that failed.
func (p *pipe) lose() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cur != nil {
		_ = p.cur.Close()
		p.cur = nil
	}
}

func (p *pipe) Read(b []byte) (int, error) {
	for {
		c := p.connection()
		if c == nil {
			return 0, io.EOF
		}
		if n, err := c.Read(b); n > 0 || err == nil {
			return n, nil
		}
		p.lose()
	}
}

func (p *pipe) Write(b []byte) (total int, err error) {
	for total < len(b) {
		c := p.connection()
		if c == nil {
			return total, io.ErrClosedPipe
		}
		n, err := c.Write(b[total:])
		if total += n; err != nil {
			p.lose()
		}
	}
	return total, nil
}

// finish ends what is written, once a shim is there to read that.
func (p *pipe) finish() {
	p.connection()
	_ = p.listener.Close()
	p.lose()
}

// Close ends reading and writing. The life must have ended.
func (p *pipe) Close() error {
	err := p.listener.Close()
	p.lose()
	return err
}
