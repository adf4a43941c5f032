package stdio

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A terminal's input and output are moved inside the kernel, where it can be done: what a shim had read when it is killed, and had not
// yet written, would be lost.

// survivor writes to a fifo whose reader may leave and come back; what nobody reads is dropped.
type survivor struct{ f *os.File }

func (w survivor) Write(p []byte) (int, error) {
	if _, err := w.f.Write(p); err != nil && !errors.Is(err, unix.EPIPE) {
		return 0, err
	}
	return len(p), nil
}

// ReadFrom is for io.Copy. It reads to the end of r, or to its end's error.
func (w survivor) ReadFrom(r io.Reader) (total int64, err error) {
	from, ok := r.(syscall.Conn)
	for ok {
		n, err := move(w.f, from)
		total += n
		switch {
		case errors.Is(err, unix.EINVAL):
			ok = false // not with these files, or not on this kernel
		case errors.Is(err, unix.EPIPE):
			n, err := w.drop(r)
			total += n
			if err != nil {
				return total, err
			}
		default:
			return total, err
		}
	}
	n, err := io.Copy(writerOnly{w}, r)
	return total + n, err
}

// drop takes one piece away from a reader whose output nobody wants now.
func (w survivor) drop(r io.Reader) (int64, error) {
	buf := pieces.Get().(*[]byte)
	defer pieces.Put(buf)
	n, err := r.Read(*buf)
	if n > 0 {
		_, _ = w.Write((*buf)[:n]) // somebody may be back
	}
	return int64(n), err
}

type writerOnly struct{ io.Writer }

// source reads a fifo for a terminal.
type source struct{ f *os.File }

func (r source) Read(p []byte) (int, error) { return r.f.Read(p) }

// WriteTo is for io.Copy.
func (r source) WriteTo(w io.Writer) (total int64, err error) {
	if to, ok := w.(syscall.Conn); ok {
		if total, err = move(to, r.f); !errors.Is(err, unix.EINVAL) {
			return total, err
		}
	}
	n, err := io.Copy(w, readerOnly{r.f})
	return total + n, err
}

type readerOnly struct{ io.Reader }

// moveSize is how much is moved at once, at most: a fifo holds no more.
const moveSize = 64 << 10

// move splices (splice(2)) until from ends. Both are polled files and one of them is a fifo. EINVAL when the kernel cannot; all
// other errors are those of reading and writing.
func move(to, from syscall.Conn) (total int64, err error) {
	r, err := from.SyscallConn()
	if err != nil {
		return 0, err
	}
	w, err := to.SyscallConn()
	if err != nil {
		return 0, err
	}
	for {
		n, full, err := moveOnce(w, r)
		total += n
		switch {
		case full:
			if err := w.Write(writable); err != nil {
				return total, err
			}
		case err != nil || n == 0:
			return total, err
		}
	}
}

// moveOnce waits until there is something to read and moves it; full says that there is, and no room for it.
func moveOnce(w, r syscall.RawConn) (n int64, full bool, err error) {
	rerr := r.Read(func(in uintptr) (done bool) {
		werr := w.Control(func(out uintptr) {
			for {
				n, err = unix.Splice(int(in), nil, int(out), nil, moveSize, unix.SPLICE_F_NONBLOCK)
				if errors.Is(err, unix.EAGAIN) {
					// Of which of the two? Again if of neither any more: nothing would wake us.
					if !ready(in, unix.POLLIN) {
						return
					}
					full = !ready(out, unix.POLLOUT)
				}
				if full || !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
					done = true
					return
				}
			}
		})
		if werr != nil {
			n, err = 0, werr
		}
		return done || werr != nil
	})
	if rerr != nil {
		return 0, false, rerr
	}
	return max(n, 0), full, err
}

func writable(fd uintptr) bool { return ready(fd, unix.POLLOUT) }

// ready says whether fd need not be waited for; errors are left for what is done with it next.
func ready(fd uintptr, what int16) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: what}}
	n, err := unix.Poll(p, 0)
	return n > 0 || err != nil
}
