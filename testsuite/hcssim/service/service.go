// Package service is hcssimd without its listener: it answers the requests of stubs (testsuite/hcssim/dll) and of control clients,
// asks the rules of package faults before each, and hands the call to compute, layers or networks.
//
// What it keeps itself (connections, clients, rules) dies with it; what has to outlive it is on disk with the packages it calls.
package service

import (
	"bufio"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/slipwayd/slipway/testsuite/hcssim/compute"
	"github.com/slipwayd/slipway/testsuite/hcssim/faults"
	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
	"github.com/slipwayd/slipway/testsuite/hcssim/layers"
	"github.com/slipwayd/slipway/testsuite/hcssim/networks"
	"github.com/slipwayd/slipway/testsuite/hcssim/wire"
)

// maxEvents is how many events may wait for a client that doesn't read them; more end its connection.
const maxEvents = 4096

// Config is what a Server serves.
type Config struct {
	Token    string // what each connection says first
	Layers   *layers.Store
	Networks *networks.Service
	Faults   *faults.Set
	Log      *log.Logger
	Exit     func() // ends the process; for rules that say so
}

// Server answers requests.
type Server struct {
	Config
	compute *compute.Host

	mu      sync.Mutex
	clients map[string]*client
	calls   map[string]int // how often each function was called
}

type client struct {
	compute.Client
	conns  int
	events chan compute.Event // nil without a connection for them
}

// New makes a Server. Its compute host is given afterwards, as that one sends its events here.
func New(c Config) *Server {
	return &Server{Config: c, clients: map[string]*client{}, calls: map[string]int{}}
}

// SetHost gives the Server its compute host, before the first connection.
func (s *Server) SetHost(h *compute.Host) { s.compute = h }

// Serve answers connections until l is closed.
func (s *Server) Serve(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if err := s.connection(c); err != nil && !errors.Is(err, io.EOF) {
				s.Log.Printf("connection: %v", err)
			}
		}()
	}
}

func (s *Server) connection(c net.Conn) error {
	r := bufio.NewReader(c)
	hello, err := wire.ReadFrame(r)
	if err != nil {
		return err
	}
	if len(hello) != 3 || subtle.ConstantTimeCompare(hello[0], []byte(s.Token)) != 1 {
		return fmt.Errorf("a caller that is none of ours")
	}
	switch purpose := string(hello[1]); purpose {
	case "control":
		return s.serve(r, c, func(f [][]byte) ([][]byte, error) { return s.control(f) })
	case "calls", "events":
		cl := s.enter(string(hello[2]))
		defer s.leave(cl)
		if purpose == "events" {
			return s.sendEvents(c, r, cl)
		}
		return s.serve(r, c, func(f [][]byte) ([][]byte, error) { return s.call(cl.Client, f) })
	default:
		return fmt.Errorf("a connection for %q", purpose)
	}
}

// serve answers requests, each with its HRESULT and what else there is.
func (s *Server) serve(r io.Reader, w io.Writer, answer func([][]byte) ([][]byte, error)) error {
	for {
		fields, err := wire.ReadFrame(r)
		if err != nil {
			return err
		}
		out, err := answer(fields)
		if err := wire.WriteFrame(w, append([][]byte{wire.Uint32(uint32(hresult.Of(err)))}, out...)...); err != nil {
			return err
		}
	}
}

func (s *Server) enter(name string) *client {
	s.mu.Lock()
	defer s.mu.Unlock()
	cl := s.clients[name]
	if cl == nil {
		pid, _, _ := strings.Cut(name, ".")
		n, _ := strconv.ParseUint(pid, 10, 32) // 0 is nobody's
		cl = &client{Client: compute.Client{Name: name, PID: uint32(n)}}
		s.clients[name] = cl
	}
	cl.conns++
	return cl
}

// leave forgets a client with its last connection: its process is gone.
func (s *Server) leave(cl *client) {
	s.mu.Lock()
	cl.conns--
	last := cl.conns == 0
	if last {
		delete(s.clients, cl.Name)
	}
	s.mu.Unlock()
	if last {
		s.compute.Gone(cl.Client)
		s.Networks.Gone(cl.Name)
	}
}

// Send queues an event for a client; it never blocks.
func (s *Server) Send(name string, e compute.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cl := s.clients[name]
	if cl == nil || cl.events == nil {
		return
	}
	select {
	case cl.events <- e:
	default:
		close(cl.events)
		cl.events = nil
	}
}

func (s *Server) sendEvents(c net.Conn, r io.Reader, cl *client) error {
	events := make(chan compute.Event, maxEvents)
	s.mu.Lock()
	cl.events = events
	s.mu.Unlock()
	gone := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, r) // nothing comes but the end
		close(gone)
	}()
	defer func() {
		c.Close()
		<-gone
		s.mu.Lock()
		if cl.events == events {
			cl.events = nil
		}
		s.mu.Unlock()
	}()
	if err := wire.WriteFrame(c); err != nil { // ready: what is registered from now on is heard of
		return err
	}
	for {
		select {
		case <-gone:
			return nil
		case e, ok := <-events:
			if !ok {
				return fmt.Errorf("client %s doesn't read its events", cl.Name)
			}
			if err := wire.WriteFrame(c, wire.Uint64(e.Callback), wire.Uint32(e.Type), wire.Uint32(uint32(e.Status)), wire.UTF16(e.Data)); err != nil {
				return err
			}
		}
	}
}
