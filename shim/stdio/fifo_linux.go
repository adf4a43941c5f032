package stdio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// readerWait is how long Open waits for a client to open the reading end of a fifo it named.
const readerWait = 5 * time.Second

// openFd opens path with close-on-exec. With O_NONBLOCK in flags the file is polled by the runtime; without, it is fit
// for a process that expects blocking streams.
func openFd(path string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return os.NewFile(uintptr(fd), path), nil
	}
}

// blocking makes a file that was opened without waiting into one whose reads and writes wait.
func blocking(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := conn.Control(func(fd uintptr) { err = unix.SetNonblock(int(fd), false) })
	return errors.Join(cerr, err)
}

// openWriter opens a client's fifo for a process to write to. It waits for the client's end at most readerWait and goes on
// without it then: what is written stays in the fifo for as long as the shim holds it.
func openWriter(ctx context.Context, path string) (*os.File, error) {
	f, err := openFd(path, unix.O_WRONLY|unix.O_NONBLOCK)
	if !errors.Is(err, unix.ENXIO) {
		return f, err
	}
	// By handle, so that a client that gives up and removes the fifo does not leave a wait that nothing can end.
	handle, err := openFd(path, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	name := fmt.Sprintf("/proc/self/fd/%d", handle.Fd())
	ctx, cancel := context.WithTimeout(ctx, readerWait)
	defer cancel()
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		f, err = openFd(name, unix.O_WRONLY) // waits in the kernel until there is a reader
	}()
	select {
	case <-opened:
		return f, err
	case <-ctx.Done():
	}
	reader, rerr := openFd(name, unix.O_RDWR|unix.O_NONBLOCK) // its being open ends that wait
	if rerr != nil {
		return nil, rerr
	}
	defer reader.Close()
	<-opened
	return f, err
}

// isFifo tells whether path is a fifo; an error when there is nothing.
func isFifo(path string) (bool, error) {
	st, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	return st.Mode()&os.ModeNamedPipe != 0, nil
}

// makeFifo makes a fifo of ours, or finds the one that a dead shim made.
func makeFifo(path string) error {
	if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("cannot make fifo %s: %w", path, err)
	}
	return nil
}

// pieces are the buffers of all readers; a reader has one only while there is something to read.
var pieces = sync.Pool{New: func() any { b := make([]byte, 2*maxLine); return &b }}

// pump carries what arrives in a fifo to take, in a goroutine of its own until finish.
type pump struct {
	r    *os.File
	take func([]byte)
	done chan struct{}
}

func startPump(r *os.File, take func([]byte)) *pump {
	p := &pump{r: r, take: take, done: make(chan struct{})}
	go p.run()
	return p
}

func (p *pump) run() {
	defer close(p.done)
	conn, err := p.r.SyscallConn()
	if err != nil {
		return
	}
	for {
		err := conn.Read(func(fd uintptr) bool { return p.read(int(fd)) })
		if err != nil { // the deadline that finish sets: nobody writes any more, take what is there
			_ = conn.Control(func(fd uintptr) {
				for p.read(int(fd)) {
				}
			})
			return
		}
	}
}

// read takes one piece; false when there is nothing to read now.
func (p *pump) read(fd int) bool {
	buf := pieces.Get().(*[]byte)
	defer pieces.Put(buf)
	for {
		n, err := syscall.Read(fd, *buf)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if n <= 0 {
			return false
		}
		p.take((*buf)[:n])
		return true
	}
}

func (p *pump) finish() {
	_ = p.r.SetReadDeadline(time.Unix(1, 0))
	<-p.done
	p.r.Close()
}

// terminalsAreStreams: a terminal is not, its other side is kept and given back by AttachTerminal.
const terminalsAreStreams = false

// localPath is the path in a URI.
func localPath(path string) string { return path }
