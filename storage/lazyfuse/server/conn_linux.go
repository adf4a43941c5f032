package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Numbers of include/uapi/linux/fuse.h that go-fuse keeps to itself.
const (
	opForget, opReadlink, opRead, opGetxattr, opListxattr = 2, 5, 15, 22, 23
	opReaddir, opPoll, opBatchForget, opReaddirplus       = 28, 40, 42, 44

	notifyInvalInode, notifyResend = 2, 7

	uniqueResend = uint64(1) << 63 // set in requests that the kernel sends again

	initRequestFlags, initRequestFlags2 = 40 + 12, 40 + 16
	initReplyFlags, initReplyFlags2     = 16 + 12, 16 + 32

	backingOpen, backingClose = 0x4010e501, 0x4004e502 // ioctls on /dev/fuse

	requestSize = 32 << 10 // bytes of the largest request that a read-only mount sees, but for lists of what was forgotten

	idleReaders = 3 // goroutines that wait in read(2) for the next request
)

// conn is one server's hold on /dev/fuse. A goroutine that has read a request also answers it, without a change of
// threads; before it begins it sees to it that another one waits in read(2), so a slow answer delays no other.
type conn struct {
	dev      *os.File
	fd       int
	protocol *fuse.ProtocolServer
	buffers  buffers
	log      *slog.Logger

	idle    atomic.Int32
	readers sync.WaitGroup
	end     chan error // receives why reading ended, once for each reader that fails
}

func newConn(dev *os.File, protocol *fuse.ProtocolServer, log *slog.Logger) *conn {
	// Fd switches to blocking mode, which is what the readers need: the kernel then wakes one of them for a request, not all.
	return &conn{dev: dev, fd: int(dev.Fd()), protocol: protocol, log: log, end: make(chan error, 1)}
}

// serve reads and answers requests until the file system is unmounted or stop is closed. In the latter case goroutines stay
// in read(2) until the file system is unmounted or the process ends: nothing can wake them, and requests that they take
// they leave to the next server.
func (c *conn) serve(stop <-chan struct{}) error {
	c.spawn()
	select {
	case err := <-c.end:
		c.readers.Wait()
		c.buffers.drop()
		return err
	case <-stop:
		return nil
	}
}

func (c *conn) spawn() {
	c.idle.Add(1)
	c.readers.Add(1)
	go func() {
		defer c.readers.Done()
		if err := c.read(); err != nil {
			select {
			case c.end <- err:
			default:
			}
		}
	}()
}

func (c *conn) read() error {
	buf, err := mapBuffer()
	if err != nil {
		return fmt.Errorf("cannot map memory for FUSE requests: %w", err)
	}
	defer func() { _ = unix.Munmap(buf) }()
	pin(buf[:requestSize])
	for {
		n, err := unix.Read(c.fd, buf)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOENT):
			continue // ENOENT: the request was withdrawn
		case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ECONNABORTED):
			return ErrUnmounted
		case err != nil:
			return fmt.Errorf("cannot read FUSE requests: %w", err)
		}
		if n < int(unsafe.Sizeof(fuse.InHeader{})) {
			continue
		}
		if c.idle.Add(-1) == 0 {
			c.spawn()
		}
		c.answer(buf[:n])
		if c.idle.Add(1) > idleReaders {
			c.idle.Add(-1)
			return nil
		}
	}
}

// pin makes memory be there and stay. Were it not, a process that is killed just as the kernel copies a request to it would take
// the request along: the kernel fetches no page for a dying process, and answers EIO to who asked.
func pin(p []byte) {
	for i := 0; i < len(p); i += os.Getpagesize() {
		p[i] = 1
	}
	_ = unix.Mlock(p) // without it, swapping would bring the danger back
}

// answer handles one request and writes what comes of it.
func (c *conn) answer(request []byte) {
	h := (*fuse.InHeader)(unsafe.Pointer(&request[0]))
	if h.Opcode == opForget || h.Opcode == opBatchForget {
		return // node ids are stateless
	}
	if h.Opcode == opPoll {
		c.fail(h.Unique, unix.ENOSYS) // files are always ready; the kernel asks once
		return
	}
	out, err := c.buffers.get(answerSize(h.Opcode, request))
	if err != nil {
		c.log.Error("cannot answer a FUSE request", "error", err)
		c.fail(h.Unique, unix.ENOMEM)
		return
	}
	defer c.buffers.put(out)
	defer func() {
		// go-fuse recovers from panics of the file system; this is for its own. The request would come again and again otherwise.
		if v := recover(); v != nil {
			c.log.Error("answering a FUSE request panicked", "panic", v, "stack", string(debug.Stack()))
			c.fail(h.Unique, unix.EIO)
		}
	}()
	n, status := c.protocol.HandleRequest([][]byte{request}, [][]byte{out})
	if !status.Ok() {
		c.fail(h.Unique, unix.Errno(status))
		return
	}
	if n > 0 {
		c.write(out[:n])
	}
}

// answerSize answers how much memory the answer to a request may take; too much for a buffer is cut, and go-fuse refuses.
func answerSize(opcode uint32, request []byte) int {
	at := 0
	switch opcode {
	case opRead, opReaddir, opReaddirplus:
		at = int(unsafe.Offsetof(fuse.ReadIn{}.Size))
	case opGetxattr, opListxattr:
		at = int(unsafe.Offsetof(fuse.GetXAttrIn{}.Size))
	}
	if at == 0 || len(request) < at+4 {
		return headroom
	}
	return min(512+int(binary.NativeEndian.Uint32(request[at:])), bigBuffer)
}

// fail answers a request with nothing but an error.
func (c *conn) fail(unique uint64, errno unix.Errno) { c.write(header(-int32(errno), unique, nil)) }

// header makes a fuse_out_header and what follows it. Notifications have unique 0 and their code for an error.
func header(code int32, unique uint64, body []byte) []byte {
	p := make([]byte, 16, 16+len(body))
	binary.NativeEndian.PutUint32(p, uint32(16+len(body)))
	binary.NativeEndian.PutUint32(p[4:], uint32(code))
	binary.NativeEndian.PutUint64(p[8:], unique)
	return append(p, body...)
}

// write hands an answer to the kernel. One that nobody waits for any more is ENOENT and no error.
func (c *conn) write(p []byte) {
	for {
		_, err := unix.Write(c.fd, p)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil, errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV):
		default:
			c.log.Error("the kernel took no FUSE answer", "bytes", len(p), "error", err)
		}
		return
	}
}

// notify tells the kernel something unasked.
func (c *conn) notify(code int32, body []byte) error {
	_, err := unix.Write(c.fd, header(code, 0, body))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil // it knew nothing of the matter
	}
	return err
}

// forgetRoot has the kernel drop its list of the root's names. The names themselves it never keeps: it asks each time. (There
// is a notification to drop a name, but it waits for those who look names up, and a server killed in it could not end.)
func (c *conn) forgetRoot() error {
	body := make([]byte, 24) // fuse_notify_inval_inode_out: ino, offset, length; length 0 is all
	binary.NativeEndian.PutUint64(body, fuse.FUSE_ROOT_ID)
	if err := c.notify(notifyInvalInode, body); err != nil {
		return fmt.Errorf("cannot have the kernel forget what is attached: %w", err)
	}
	return nil
}

// resend has the kernel send again whatever the server before read and did not answer.
func (c *conn) resend() error { return c.notify(notifyResend, nil) }

// openBacking registers a file that the kernel may read instead of asking.
func (c *conn) openBacking(f *os.File) (int32, error) {
	m := fuse.BackingMap{Fd: int32(f.Fd())}
	id, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.fd), backingOpen, uintptr(unsafe.Pointer(&m)))
	if errno != 0 {
		return 0, errno
	}
	return int32(id), nil
}

func (c *conn) closeBacking(id int32) {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.fd), backingClose, uintptr(unsafe.Pointer(&id))); errno != 0 {
		c.log.Warn("cannot close a backing file", "id", id, "error", errno)
	}
}
