package changeset

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// procPath names an open file for calls that take paths only.
func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// chunk is how much of a file one job writes, in bytes.
const chunk = 1 << 20

// umask is what the kernel takes off the mode of files that this process makes. It is read once: daemons do not change it.
var umask = sync.OnceValue(func() uint32 {
	data, _ := os.ReadFile("/proc/self/status")
	var mask uint32 = 0o777 // makes every mode be set explicitly
	if i := indexLine(data, "Umask:"); i >= 0 {
		_, _ = fmt.Sscanf(string(data[i:]), "%o", &mask)
	}
	return mask
})

// regular makes a file and hands its content over to the writers.
func (a *applier) regular(ctx context.Context, tr *tar.Reader, hdr *tar.Header, dir *dir, base string, m meta) error {
	isSparse := hdr.Typeflag == tar.TypeGNUSparse || hdr.PAXRecords["GNU.sparse.realsize"] != "" || hdr.PAXRecords["GNU.sparse.size"] != ""
	if isSparse {
		if hdr.Size > maxSparse || a.sparse > maxSparse-hdr.Size {
			return fmt.Errorf("sparse files of more than %d bytes: %w", int64(maxSparse), errdefs.ErrInvalidArgument)
		}
		a.sparse += hdr.Size
	}
	var fd int
	err := a.replacing(dir, base, func() (err error) {
		fd, err = unix.Openat(dir.fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, m.mode)
		return err
	})
	if err != nil {
		return err
	}
	f := &outFile{fd: fd, size: hdr.Size, sparse: isSparse, meta: m, made: m.mode &^ umask(), own: !a.overlay}
	f.jobs.Store(1)
	defer a.out.release(f)
	for off := int64(0); off < hdr.Size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		buf := a.out.buffer(hdr.Size - off)
		n, err := io.ReadFull(tr, buf)
		if err != nil {
			return unreadable(fmt.Errorf("content ends after %d of %d bytes: %w", off+int64(n), hdr.Size, err))
		}
		if err := a.out.write(f, buf, off); err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

// outFile is a file whose content is on its way. Whoever does its last job finishes and closes it.
type outFile struct {
	fd     int
	size   int64
	sparse bool
	own    bool // set the owner even if it is root: the directory may hand down another group
	meta   meta
	made   uint32
	jobs   atomic.Int32
}

type job struct {
	f   *outFile
	buf []byte
	off int64
}

// writers write the contents of files, several at a time. Its owner calls close, which waits for all.
type writers struct {
	jobs   chan job
	wg     sync.WaitGroup
	small  sync.Pool
	large  sync.Pool
	err    atomic.Pointer[error]
	closed bool
}

const smallBuf = 32 << 10

// earlyWrite is from how many bytes on a chunk is sent to the disk at once, while the next ones are still being fetched and
// decompressed. Smaller ones are left for Sync, which the file system can arrange better.
const earlyWrite = 64 << 10

func startWriters() *writers {
	w := &writers{jobs: make(chan job, 64)}
	w.small.New = func() any { return new([smallBuf]byte) }
	w.large.New = func() any { return new([chunk]byte) }
	for range min(runtime.GOMAXPROCS(0), 4) {
		w.wg.Go(func() {
			for j := range w.jobs {
				w.do(j)
			}
		})
	}
	return w
}

// close waits until all is written and answers the first error. It may be called twice.
func (w *writers) close() error {
	if !w.closed {
		w.closed = true
		close(w.jobs)
		w.wg.Wait()
		return w.failed()
	}
	return nil
}

func (w *writers) failed() error {
	if p := w.err.Load(); p != nil {
		return *p
	}
	return nil
}

func (w *writers) fail(err error) {
	if err != nil {
		err = fmt.Errorf("cannot write a file of the layer: %w", kind(err))
		w.err.CompareAndSwap(nil, &err)
	}
}

// buffer answers memory for the next chunk of a file of which left bytes are to come.
func (w *writers) buffer(left int64) []byte {
	if left <= smallBuf {
		return w.small.Get().(*[smallBuf]byte)[:left]
	}
	return w.large.Get().(*[chunk]byte)[:min(left, chunk)]
}

// write queues buf, which then belongs to the writers, and tells of errors that earlier writes met.
func (w *writers) write(f *outFile, buf []byte, off int64) error {
	f.jobs.Add(1)
	w.jobs <- job{f, buf, off}
	return w.failed()
}

func (w *writers) do(j job) {
	w.fail(j.f.writeAt(j.buf, j.off))
	if cap(j.buf) == smallBuf {
		w.small.Put((*[smallBuf]byte)(j.buf[:smallBuf]))
	} else {
		w.large.Put((*[chunk]byte)(j.buf[:chunk]))
	}
	w.release(j.f)
}

// release ends one job on f. After the last it is given its attributes, in an order that no later step undoes.
func (w *writers) release(f *outFile) {
	if f.jobs.Add(-1) > 0 {
		return
	}
	w.fail(f.finish())
	unix.Close(f.fd)
}

func (f *outFile) finish() error {
	if f.sparse {
		if err := unix.Ftruncate(f.fd, f.size); err != nil {
			return err
		}
	}
	if f.own {
		if err := unix.Fchown(f.fd, int(f.meta.uid), int(f.meta.gid)); err != nil {
			return err
		}
		f.made = ^f.meta.mode
	}
	if err := f.meta.setOwner(f.fd, f.made); err != nil {
		return err
	}
	if err := f.meta.setXattrs(f.fd); err != nil {
		return err
	}
	return setTimes(f.fd, f.meta.mtime)
}

// block is the unit in which zeros of a sparse file become holes, in bytes.
const block = 4096

var zeros [block]byte

func (f *outFile) writeAt(buf []byte, off int64) error {
	if !f.sparse {
		err := pwrite(f.fd, buf, off)
		if err == nil && len(buf) >= earlyWrite {
			_ = unix.SyncFileRange(f.fd, off, int64(len(buf)), unix.SYNC_FILE_RANGE_WRITE)
		}
		return err
	}
	for len(buf) > 0 {
		n := 0
		for n < len(buf) && !isZero(buf[n:min(n+block, len(buf))]) {
			n = min(n+block, len(buf))
		}
		if err := pwrite(f.fd, buf[:n], off); err != nil {
			return err
		}
		n = min(n+block, len(buf)) // the zeros
		buf, off = buf[n:], off+int64(n)
	}
	return nil
}

func isZero(b []byte) bool { return string(b) == string(zeros[:len(b)]) }

func pwrite(fd int, buf []byte, off int64) error {
	for len(buf) > 0 {
		n, err := unix.Pwrite(fd, buf, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		buf, off = buf[n:], off+int64(n)
	}
	return nil
}
