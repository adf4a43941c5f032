package cri

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/utils/exec"

	"github.com/slipwayd/slipway/engine/pods"
)

// StreamingOptions say where clients find the streams of exec, attach and port-forward.
type StreamingOptions struct {
	Address string      // HOST:PORT, such as 127.0.0.1:0; kubelet is the only client
	TLS     *tls.Config // nil: none, which is for loopback addresses
	Log     *slog.Logger
}

// Streaming serves the streams of exec, attach and port-forward over HTTP, by SPDY and websocket. Each is asked for by CRI first, which answers an address
// with a token that is good once, for a minute.
type Streaming struct {
	requests streaming.Server
	server   *http.Server
	listener *connections
	serving  sync.WaitGroup
	inputs   inputs
}

// inputs are the tokens of attachments that asked for the container's input, and when. The library does not pass that on, and to a client
// by websocket that did not ask it gives an input that ends at once: the container's would end with it.
type inputs struct {
	mu  sync.Mutex
	all map[string]time.Time
}

// tokenLife is how long the library keeps a token.
const tokenLife = time.Minute

func (i *inputs) add(token string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for old, at := range i.all {
		if time.Since(at) > tokenLife {
			delete(i.all, old)
		}
	}
	i.all[token] = time.Now()
}

func (i *inputs) take(token string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	_, ok := i.all[token]
	delete(i.all, token)
	return ok
}

// wantsInput is a key of requests' contexts.
type wantsInput struct{}

// ServeHTTP serves one stream.
func (s *Streaming) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.inputs.take(path.Base(r.URL.Path)) {
		r = r.WithContext(context.WithValue(r.Context(), wantsInput{}, true))
	}
	s.requests.ServeHTTP(w, r)
}

// NewStreaming begins to serve. Its owner calls Close.
func NewStreaming(m *pods.Manager, o StreamingOptions) (*Streaming, error) {
	l, err := net.Listen("tcp", o.Address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for streams of containers ([cri] stream_address): %w", err)
	}
	base := &url.URL{Scheme: "http", Host: reachable(l.Addr().(*net.TCPAddr))}
	if o.TLS != nil {
		base.Scheme = "https"
	}
	conf := streaming.DefaultConfig
	conf.Addr, conf.BaseURL = base.Host, base
	s := &Streaming{listener: &connections{Listener: l, open: map[net.Conn]struct{}{}}, inputs: inputs{all: map[string]time.Time{}}}
	if s.requests, err = streaming.NewServer(conf, streamRuntime{m}); err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot serve streams of containers: %w", err)
	}
	s.server = &http.Server{
		Handler: s, TLSConfig: o.TLS, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
		// Of HTTP/2 neither protocol knows.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	s.serving.Go(func() {
		err := error(nil)
		if o.TLS != nil {
			err = s.server.ServeTLS(s.listener, "", "")
		} else {
			err = s.server.Serve(s.listener)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			o.Log.Error("streams of containers are not served any more: exec, attach and port-forward of Kubernetes fail", "err", err)
		}
	})
	return s, nil
}

// Close ends all streams.
func (s *Streaming) Close() error {
	err := s.server.Close()
	s.listener.closeAll() // those that have become streams too
	s.serving.Wait()
	return err
}

// reachable is an address that a client on this host can connect to.
func reachable(a *net.TCPAddr) string {
	if a.IP.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", fmt.Sprint(a.Port))
	}
	return a.String()
}

// connections are those of a listener, which a server loses sight of when they become streams.
type connections struct {
	net.Listener
	mu   sync.Mutex
	open map[net.Conn]struct{}
}

func (l *connections) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[c] = struct{}{}
	return &connection{Conn: c, l: l}, nil
}

func (l *connections) closeAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		c.Close()
	}
}

type connection struct {
	net.Conn
	l *connections
}

func (c *connection) Close() error {
	c.l.mu.Lock()
	delete(c.l.open, c.Conn)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// streamRuntime gives the streams of clients to the verbs.
type streamRuntime struct{ pods *pods.Manager }

func (r streamRuntime) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	code, err := r.pods.Exec(ctx, id, cmd, streams(ctx, in, out, errs, tty, resize))
	if err == nil && code != 0 {
		err = exec.CodeExitError{Err: fmt.Errorf("the command ended with exit code %d", code), Code: int(code)}
	}
	return err
}

func (r streamRuntime) Attach(ctx context.Context, id string, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	if ctx.Value(wantsInput{}) == nil {
		in = nil
	}
	return r.pods.Attach(ctx, id, streams(ctx, in, out, errs, tty, resize))
}

func (r streamRuntime) PortForward(ctx context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	return r.pods.Forward(ctx, id, port, stream)
}

// streams translates. ctx is the request's, and ends with it.
func streams(ctx context.Context, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) pods.Streams {
	s := pods.Streams{Stdin: in, Terminal: tty}
	if out != nil { // not a nil of its type
		s.Stdout = out
	}
	if errs != nil {
		s.Stderr = errs
	}
	if resize == nil {
		return s
	}
	sizes := make(chan pods.Size)
	s.Sizes = sizes
	go func() { // ends with the request
		defer close(sizes)
		for {
			select {
			case <-ctx.Done():
				return
			case size, ok := <-resize:
				if !ok {
					return
				}
				select {
				case sizes <- pods.Size{Width: size.Width, Height: size.Height}:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return s
}

func (s *runtimeService) Exec(_ context.Context, r *runtime.ExecRequest) (*runtime.ExecResponse, error) {
	if err := s.canStream(r.ContainerId); err != nil {
		return nil, err
	}
	if len(r.Cmd) == 0 {
		return nil, fmt.Errorf("there is no command to execute: %w", errdefs.ErrInvalidArgument)
	}
	return s.options.Streaming.requests.GetExec(r)
}

func (s *runtimeService) Attach(_ context.Context, r *runtime.AttachRequest) (*runtime.AttachResponse, error) {
	if err := s.canStream(r.ContainerId); err != nil {
		return nil, err
	}
	resp, err := s.options.Streaming.requests.GetAttach(r)
	if err == nil && r.Stdin {
		s.options.Streaming.inputs.add(path.Base(resp.Url))
	}
	return resp, err
}

func (s *runtimeService) PortForward(_ context.Context, r *runtime.PortForwardRequest) (*runtime.PortForwardResponse, error) {
	p, err := s.pods.Pod(r.PodSandboxId)
	if err == nil && !p.Ready {
		err = fmt.Errorf("pod %s is not ready: %w", p.ID, errdefs.ErrFailedPrecondition)
	}
	if err == nil {
		err = s.served()
	}
	if err != nil {
		return nil, err
	}
	return s.options.Streaming.requests.GetPortForward(r)
}

// canStream tells early what would fail once the client has connected.
func (s *runtimeService) canStream(container string) error {
	c, err := s.pods.Container(container)
	if err != nil {
		return err
	}
	if c.State != pods.Running {
		return fmt.Errorf("container %s is not running: %w", c.ID, errdefs.ErrFailedPrecondition)
	}
	return s.served()
}

func (s *runtimeService) served() error {
	if s.options.Streaming == nil {
		return fmt.Errorf("streams of containers are not served: set [cri] stream_address: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}
