package containerd

import (
	"fmt"
	"io"
	"time"

	transfertypes "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
)

// Byte streams carry an archive in messages of type Data. The receiver of the bytes grants credit with WindowUpdate and the
// sender never has more bytes under way than it was granted. A grant adds to what is left; there is no other state.
const (
	maxDataMessage = 32 << 10 // bytes in a message that we send
	grantStep      = 64 << 10 // bytes; clients grant in steps of this too
	readWindow     = 1 << 20  // bytes that we let a client send ahead
	drainWait      = 10 * time.Second
)

// byteReader reads the bytes that a client sends. It is not safe for concurrent use.
type byteReader struct {
	s       *stream
	granted int64 // bytes the client may still send
	rest    []byte
}

func (r *byteReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *byteReader) next() error {
	if r.granted <= readWindow-grantStep {
		more := readWindow - r.granted
		// A client that has sent everything may be gone for our grants and still have bytes on the way: only Recv knows.
		if err := r.s.send(&transfertypes.WindowUpdate{Update: int32(more)}); err == nil {
			r.granted += more
		}
	}
	msg, err := r.s.receive()
	if err != nil {
		return err
	}
	var data transfertypes.Data
	if err := typeurl.UnmarshalTo(msg, &data); err != nil {
		return fmt.Errorf("cannot read a stream of bytes: message %s: %w", msg.GetTypeUrl(), errdefs.ErrInvalidArgument)
	}
	r.granted -= int64(len(data.Data))
	r.rest = data.Data
	return nil
}

// byteWriter sends bytes to a client as fast as that grants credit. Write fails once the stream is closed, by either side.
// Close waits for the goroutine.
type byteWriter struct {
	s      *stream
	credit chan int64    // grants, summed up by Write
	gone   chan struct{} // closed when the client can grant no more
	left   int64
}

func newByteWriter(s *stream) *byteWriter {
	w := &byteWriter{s: s, credit: make(chan int64), gone: make(chan struct{})}
	go w.receiveCredit()
	return w
}

func (w *byteWriter) receiveCredit() {
	defer close(w.gone)
	for {
		msg, err := w.s.receive()
		if err != nil {
			return
		}
		var update transfertypes.WindowUpdate
		if err := typeurl.UnmarshalTo(msg, &update); err != nil || update.Update <= 0 {
			continue
		}
		select {
		case w.credit <- int64(update.Update):
		case <-w.s.closed:
			return
		}
	}
}

func (w *byteWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		if err := w.awaitCredit(1); err != nil {
			return n, err
		}
		chunk := p[:min(int64(len(p)), w.left, maxDataMessage)]
		if err := w.s.send(&transfertypes.Data{Data: chunk}); err != nil {
			return n, fmt.Errorf("cannot send to the client's stream: %w", err)
		}
		w.left -= int64(len(chunk))
		n += len(chunk)
		p = p[len(chunk):]
	}
	return n, nil
}

// awaitCredit blocks until the client lets us send at least want bytes, and takes in every grant that has arrived.
func (w *byteWriter) awaitCredit(want int64) error {
	for {
		if w.left >= want {
			select {
			case c := <-w.credit:
				w.left += c
				continue
			default:
				return nil
			}
		}
		select {
		case c := <-w.credit:
			w.left += c
		case <-w.gone:
			return fmt.Errorf("the stream of the client is closed: %w", errdefs.ErrUnavailable)
		}
	}
}

// drain waits until the client has taken what was sent: it grants anew each time it falls below one step, so credit of a
// full step means that its window is back where it began. Clients close their file when the call returns, and what is
// still under way then would be lost. The wait is bounded, for a client that counts otherwise.
func (w *byteWriter) drain() {
	limit := time.NewTimer(drainWait)
	defer limit.Stop()
	// An empty message makes the client's copy loop come round once more after its last write.
	if err := w.s.send(&transfertypes.Data{}); err != nil {
		return
	}
	for w.left < grantStep {
		select {
		case c := <-w.credit:
			w.left += c
		case <-w.gone:
			return
		case <-limit.C:
			return
		}
	}
}

// Close ends the stream and waits for the goroutine that receives credit.
func (w *byteWriter) Close() error {
	w.s.close()
	<-w.gone
	return nil
}

var (
	_ io.Reader      = (*byteReader)(nil)
	_ io.WriteCloser = (*byteWriter)(nil)
)
