package stdio

import (
	"io"
	"net"
	"sync"

	"github.com/slipwayd/slipway/internal/ipc"
)

// inlet is standard input that clients write who come and go: they find the pipe by the file of package ipc at the path that was named, and wait for one
// byte before they write, since what a client wrote that left before it was taken is lost (package internal/oneshot). It ends with CloseStdin, as no
// client's leaving is an end. A new shim makes it anew.
type inlet struct {
	l      net.Listener
	reader *io.PipeReader // the process's side
	writer *io.PipeWriter
	served sync.WaitGroup

	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed bool
}

func newInlet(path string) (*inlet, error) {
	l, err := ipc.Listen(path)
	if err != nil {
		return nil, err
	}
	i := &inlet{l: l, open: map[net.Conn]struct{}{}}
	i.reader, i.writer = io.Pipe()
	i.served.Go(i.accept)
	return i, nil
}

func (i *inlet) accept() {
	for {
		c, err := i.l.Accept()
		if err != nil || !i.add(c) {
			return
		}
		i.served.Go(func() {
			if _, err := c.Write([]byte{0}); err == nil {
				_, _ = io.Copy(i.writer, c) // either end may go
			}
			i.mu.Lock()
			delete(i.open, c)
			i.mu.Unlock()
			c.Close()
		})
	}
}

func (i *inlet) add(c net.Conn) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		c.Close()
		return false
	}
	i.open[c] = struct{}{}
	return true
}

// Read is the process's.
func (i *inlet) Read(p []byte) (int, error) { return i.reader.Read(p) }

// Close ends the input, and lets nobody write any more. It may be repeated.
func (i *inlet) Close() error {
	i.mu.Lock()
	i.closed = true
	for c := range i.open {
		c.Close()
	}
	i.mu.Unlock()
	err := i.l.Close()
	i.writer.Close() // who writes is told
	i.served.Wait()
	return err
}
