package containerd

import (
	"context"
	"fmt"
	"sync"
	"time"

	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Bounds of the stream table. A stream that nobody claims or a client that never names one must not hold memory for ever.
const (
	maxStreams     = 1024             // open and unclaimed, over all namespaces
	maxStreamID    = 256              // bytes
	streamInitWait = 10 * time.Second // for the first message
	streamUnused   = 5 * time.Minute  // from the acknowledgement to the call that names the stream
)

// streamTable is the Streaming service: a client opens a stream under an id of its choice, then names that id in another call
// (Transfer: progress, credentials, the bytes of an archive), which claims it. A stream is claimed once and ends when
// the claimer closes it or the client goes away.
type streamTable struct {
	streamingapi.UnimplementedStreamingServer

	mu   sync.Mutex
	open map[streamKey]*stream
}

type streamKey struct{ namespace, id string }

func newStreamTable() *streamTable { return &streamTable{open: map[streamKey]*stream{}} }

func registerStreaming(r grpc.ServiceRegistrar, t *streamTable) {
	streamingapi.RegisterStreamingServer(r, t)
}

// stream is the server's end. One goroutine may send while another receives.
type stream struct {
	srv    streamingapi.Streaming_StreamServer
	taken  chan struct{} // closed by claim
	closed chan struct{}
	once   sync.Once
	sendMu sync.Mutex
}

// Stream serves one client stream: init, acknowledgement, then whatever the claimer does with it.
func (t *streamTable) Stream(srv streamingapi.Streaming_StreamServer) error {
	sc, err := scope(srv.Context())
	if err != nil {
		return err
	}
	id, err := receiveInit(srv)
	if err != nil {
		return err
	}
	s := &stream{srv: srv, taken: make(chan struct{}), closed: make(chan struct{})}
	key := streamKey{sc.Namespace, id}
	if err := t.register(key, s); err != nil {
		return err
	}
	defer t.forget(key, s)
	if err := s.send(&emptypb.Empty{}); err != nil {
		return err
	}
	unused := time.NewTimer(streamUnused)
	defer unused.Stop()
	select {
	case <-s.taken:
	case <-srv.Context().Done():
		return nil
	case <-unused.C:
		return fmt.Errorf("stream %q was not used for %s: %w", id, streamUnused, context.DeadlineExceeded)
	}
	select {
	case <-s.closed:
	case <-srv.Context().Done():
	}
	return nil
}

// receiveInit reads the first message. Its goroutine ends with the call, because the handler's return cancels Recv.
func receiveInit(srv streamingapi.Streaming_StreamServer) (string, error) {
	type first struct {
		msg *anypb.Any
		err error
	}
	got := make(chan first, 1)
	go func() {
		msg, err := srv.Recv()
		got <- first{msg, err}
	}()
	wait := time.NewTimer(streamInitWait)
	defer wait.Stop()
	select {
	case f := <-got:
		if f.err != nil {
			return "", f.err
		}
		var init streamingapi.StreamInit
		if err := typeurl.UnmarshalTo(f.msg, &init); err != nil {
			return "", fmt.Errorf("the first message of a stream must be StreamInit: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if init.ID == "" || len(init.ID) > maxStreamID {
			return "", fmt.Errorf("stream id must have 1 to %d bytes: %w", maxStreamID, errdefs.ErrInvalidArgument)
		}
		return init.ID, nil
	case <-wait.C:
		return "", fmt.Errorf("no StreamInit within %s: %w", streamInitWait, context.DeadlineExceeded)
	}
}

func (t *streamTable) register(key streamKey, s *stream) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.open[key]; ok {
		return fmt.Errorf("stream %q: %w", key.id, errdefs.ErrAlreadyExists)
	}
	if len(t.open) >= maxStreams {
		return fmt.Errorf("more than %d streams wait to be used: %w", maxStreams, errdefs.ErrResourceExhausted)
	}
	t.open[key] = s
	return nil
}

func (t *streamTable) forget(key streamKey, s *stream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[key] == s {
		delete(t.open, key)
	}
}

// claim hands the stream to the caller, who closes it. NotFound when the client opened none with that id.
func (t *streamTable) claim(namespace, id string) (*stream, error) {
	key := streamKey{namespace, id}
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.open[key]
	if !ok {
		return nil, fmt.Errorf("stream %q: %w", id, errdefs.ErrNotFound)
	}
	delete(t.open, key)
	close(s.taken)
	return s, nil
}

// send encodes and sends one message; it may be called by several goroutines.
func (s *stream) send(msg any) error {
	a, err := typeurl.MarshalAnyToProto(msg)
	if err != nil {
		return fmt.Errorf("cannot encode %T for a stream: %w", msg, err)
	}
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	select {
	case <-s.closed:
		return fmt.Errorf("stream is closed: %w", errdefs.ErrUnavailable)
	default:
	}
	return s.srv.Send(a)
}

// receive answers io.EOF once the client has closed its side. Only one goroutine may call it.
func (s *stream) receive() (*anypb.Any, error) { return s.srv.Recv() }

// close ends the call; a receive or send that blocks returns.
func (s *stream) close() { s.once.Do(func() { close(s.closed) }) }
