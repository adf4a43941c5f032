// Package slowlink is a TCP proxy that behaves as a line to something far away: each connection pays the round trip of its
// set-up, each byte half a round trip on its way, and all connections together share a bandwidth. It counts what passes.
//
//	l, err := slowlink.Listen("127.0.0.1:0", slowlink.Config{Target: "127.0.0.1:5000", RTT: 20 * time.Millisecond, Bandwidth: 100e6})
//	... use l.Addr() ...
//	fmt.Println(l.Stats().Received)
//
// It stands in for netem where the kernel has none. TCP's slow start and losses are not imitated. It knows no HTTP but that a
// blank line ends a request without a body. It imports nothing of the product; a crash leaves nothing.
package slowlink

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what a link is like.
type Config struct {
	Target    string        // host:port that connections go on to
	RTT       time.Duration // added to set-up and to each question and answer
	Bandwidth float64       // bits in a second from the target, over all connections; 0 for no limit
}

// Stats is what has passed since the last Reset.
type Stats struct {
	Connections int64
	Requests    int64 // blank lines towards the target: requests without bodies, and one more for each body that holds some
	Sent        int64 // bytes towards the target
	Received    int64 // bytes from it, as delivered
}

// Link is a proxy that listens. All methods are safe for concurrent use.
type Link struct {
	cfg      Config
	listener net.Listener
	serving  sync.WaitGroup

	connections, requests, sent, received atomic.Int64

	mu     sync.Mutex
	free   time.Time // when the line has sent all that was given to it
	open   map[net.Conn]struct{}
	closed bool
}

// Listen serves on addr until Close.
func Listen(addr string, cfg Config) (*Link, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for a slow link: %w", err)
	}
	link := &Link{cfg: cfg, listener: l, open: map[net.Conn]struct{}{}}
	link.serving.Go(link.accept)
	return link, nil
}

// Addr is host:port.
func (l *Link) Addr() string { return l.listener.Addr().String() }

// Stats answers the counters.
func (l *Link) Stats() Stats {
	return Stats{Connections: l.connections.Load(), Requests: l.requests.Load(), Sent: l.sent.Load(), Received: l.received.Load()}
}

// Reset sets the counters to zero.
func (l *Link) Reset() {
	for _, c := range []*atomic.Int64{&l.connections, &l.requests, &l.sent, &l.received} {
		c.Store(0)
	}
}

// Cut breaks all connections that are open; new ones are served.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		_ = c.Close()
	}
}

// Close stops listening, breaks all connections and waits for what served them.
func (l *Link) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	err := l.listener.Close()
	l.Cut()
	l.serving.Wait()
	return err
}

func (l *Link) accept() {
	for {
		c, err := l.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		l.connections.Add(1)
		l.serving.Go(func() { l.serve(c, time.Now().Add(l.cfg.RTT)) })
	}
}

// track has Cut and Close end a connection; false when the link is closed.
func (l *Link) track(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.open[c] = struct{}{}
	}
	return !l.closed
}

func (l *Link) untrack(c net.Conn) {
	_ = c.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
}

// serve joins a connection to one of its own to the target. What the client sends leaves it no sooner than ready, when a real
// connection would be there.
func (l *Link) serve(client net.Conn, ready time.Time) {
	defer l.untrack(client)
	if !l.track(client) {
		return
	}
	target, err := net.Dial("tcp", l.cfg.Target)
	if err != nil {
		return
	}
	defer l.untrack(target)
	if !l.track(target) {
		return
	}
	var up sync.WaitGroup
	up.Go(func() {
		var end blankLines
		l.carry(target, client, func(p []byte) time.Time {
			l.sent.Add(int64(len(p)))
			l.requests.Add(end.count(p))
			return later(time.Now(), ready).Add(l.cfg.RTT / 2)
		}, nil)
	})
	l.carry(client, target, func(p []byte) time.Time { return l.reserve(len(p)).Add(l.cfg.RTT / 2) }, &l.received)
	up.Wait()
}

// reserve gives n bytes their turn on the line and answers when the last of them has left. It waits while more is queued than
// the buffer of a good router holds, so that connections take turns.
func (l *Link) reserve(n int) time.Time {
	now := time.Now()
	if l.cfg.Bandwidth == 0 {
		return now
	}
	l.mu.Lock()
	l.free = later(l.free, now).Add(time.Duration(float64(n) * 8 / l.cfg.Bandwidth * float64(time.Second)))
	free := l.free
	l.mu.Unlock()
	time.Sleep(free.Sub(now) - queue)
	return free
}

const queue = 20 * time.Millisecond

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// inFlight bounds how many pieces of a connection are under way in one direction.
const inFlight = 512

type piece struct {
	data []byte
	due  time.Time
}

// carry copies from src to dst, each piece when stamp says it is due, until an end or an error; then dst learns of the end.
func (l *Link) carry(dst, src net.Conn, stamp func([]byte) time.Time, delivered *atomic.Int64) {
	size := 64 << 10
	if l.cfg.Bandwidth > 0 {
		size = 16 << 10 // turns of a millisecond or two
	}
	pieces := make(chan piece, inFlight)
	spare := make(chan []byte, inFlight)
	var writing sync.WaitGroup
	writing.Go(func() {
		for p := range pieces {
			time.Sleep(time.Until(p.due))
			if _, err := dst.Write(p.data); err != nil {
				_ = src.Close() // ends the reading below
			} else if delivered != nil {
				delivered.Add(int64(len(p.data)))
			}
			select {
			case spare <- p.data[:size]:
			default:
			}
		}
	})
	for {
		var buf []byte
		select {
		case buf = <-spare:
		default:
			buf = make([]byte, size)
		}
		n, err := src.Read(buf)
		if n > 0 {
			pieces <- piece{buf[:n], stamp(buf[:n])}
		}
		if err != nil {
			close(pieces)
			writing.Wait()
			if errors.Is(err, io.EOF) {
				_ = dst.(*net.TCPConn).CloseWrite()
			} else {
				_ = dst.Close()
			}
			return
		}
	}
}

// blankLines counts CRLFCRLF in a stream.
type blankLines struct{ tail []byte }

func (b *blankLines) count(p []byte) (n int64) {
	end := []byte("\r\n\r\n")
	data := append(b.tail, p...)
	for i := bytes.Index(data, end); i >= 0; i = bytes.Index(data, end) {
		data = data[i+len(end):]
		n++
	}
	b.tail = bytes.Clone(data[max(0, len(data)-len(end)+1):])
	return n
}
