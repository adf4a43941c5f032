package hcs

import (
	"io"
	"os"
	"sync"

	"golang.org/x/sys/windows"
)

// pipe is an end of a process's pipe that the service gave out a second time. Its file has been tied to a completion port of the process that had
// it before, to which a file stays tied, so that neither os nor winio can take it: each operation waits for an event of its own.
type pipe struct {
	handle windows.Handle
	stop   windows.Handle // an event: set by Close
	using  sync.RWMutex   // held for reading by operations; by Close, when they have ended
	once   sync.Once
	closed bool
}

// newPipe owns handle, after an error too.
func newPipe(handle windows.Handle) (*pipe, error) {
	stop, err := windows.CreateEvent(nil, 1, 0, nil)
	if err != nil {
		windows.CloseHandle(handle)
		return nil, err
	}
	return &pipe{handle: handle, stop: stop}, nil
}

func (p *pipe) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := p.do(func(done *uint32, o *windows.Overlapped) error { return windows.ReadFile(p.handle, b, done, o) })
	if err == windows.ERROR_BROKEN_PIPE || err == windows.ERROR_HANDLE_EOF {
		err = io.EOF
	}
	return n, err
}

func (p *pipe) Write(b []byte) (done int, err error) {
	for done < len(b) && err == nil {
		var n int
		n, err = p.do(func(now *uint32, o *windows.Overlapped) error { return windows.WriteFile(p.handle, b[done:], now, o) })
		done += n
	}
	return done, err
}

// do begins an operation and waits for its end, or for Close. The lowest bit of the event's handle keeps the operation's end from the port
// (GetQueuedCompletionStatus, on lpOverlapped).
func (p *pipe) do(begin func(done *uint32, o *windows.Overlapped) error) (int, error) {
	p.using.RLock()
	defer p.using.RUnlock()
	if p.closed {
		return 0, os.ErrClosed
	}
	event, err := windows.CreateEvent(nil, 1, 0, nil)
	if err != nil {
		return 0, err
	}
	defer windows.CloseHandle(event)
	o := &windows.Overlapped{HEvent: event | 1}
	var n uint32
	switch err := begin(&n, o); err {
	case nil, windows.ERROR_IO_PENDING:
	default:
		return 0, err
	}
	which, err := windows.WaitForMultipleObjects([]windows.Handle{event, p.stop}, false, windows.INFINITE)
	stopped := err != nil || which != windows.WAIT_OBJECT_0
	if stopped {
		_ = windows.CancelIoEx(p.handle, o)
	}
	if err = windows.GetOverlappedResult(p.handle, o, &n, true); err != nil && stopped {
		err = os.ErrClosed
	}
	return int(n), err
}

// Close ends what waits, and may be repeated.
func (p *pipe) Close() (err error) {
	p.once.Do(func() {
		_ = windows.SetEvent(p.stop)
		p.using.Lock()
		defer p.using.Unlock()
		p.closed = true
		err = windows.CloseHandle(p.handle)
		windows.CloseHandle(p.stop)
	})
	return err
}
