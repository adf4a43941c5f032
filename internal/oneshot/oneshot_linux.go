package oneshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func name(dir, stream string) string { return filepath.Join(dir, stream) }

func makeFifo(path string) error {
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return fmt.Errorf("cannot make fifo %s: %w", path, err)
	}
	return nil
}

type output struct {
	f     *os.File
	to    io.Writer // nil when it is kept
	limit int
	kept  []byte
	ended chan struct{} // closed when the reader has stopped
}

func newOutput(path string, limit int) (*Output, error) {
	return begin(path, output{limit: limit})
}

func newCopy(path string, w io.Writer) (*Output, error) {
	return begin(path, output{to: w})
}

func begin(path string, out output) (*Output, error) {
	if err := makeFifo(path); err != nil {
		return nil, err
	}
	// Read-write: whether somebody else has it open makes no difference then.
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	out.f, out.ended = f, make(chan struct{})
	o := &Output{out}
	go o.read()
	return o, nil
}

func (o *output) read() {
	defer close(o.ended)
	buf := make([]byte, 32<<10)
	for {
		n, err := o.f.Read(buf)
		o.keep(buf[:n])
		if err != nil {
			return
		}
	}
}

func (o *output) keep(b []byte) {
	if o.to != nil && len(b) > 0 {
		if _, err := o.to.Write(b); err != nil {
			o.to = io.Discard
		}
	}
	if o.to != nil {
		return
	}
	o.kept = append(o.kept, b[:min(len(b), o.limit-len(o.kept))]...)
}

func (o *output) drain() ([]byte, error) {
	defer o.close()
	if err := o.f.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return nil, err
	}
	<-o.ended
	conn, err := o.f.SyscallConn()
	if err != nil {
		return nil, err
	}
	// What is in the pipe by now: there may be writers that never stop.
	buf := make([]byte, 64<<10)
	cerr := conn.Control(func(fd uintptr) {
		for range 1024 {
			n, rerr := unix.Read(int(fd), buf)
			if n <= 0 {
				if !errors.Is(rerr, unix.EAGAIN) && !errors.Is(rerr, unix.EINTR) {
					err = rerr
				}
				return
			}
			o.keep(buf[:n])
			if o.to == nil && len(o.kept) >= o.limit {
				return
			}
		}
	})
	return o.kept, errors.Join(err, cerr)
}

func (o *output) close() {
	o.f.Close() // ends the reader
	<-o.ended
}

type tap struct {
	f  *os.File
	to io.Writer
}

func newTap(path string, w io.Writer) (*Tap, error) {
	if err := makeFifo(path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return &Tap{tap{f, w}}, nil
}

func (t *tap) copy() error {
	_, err := io.Copy(t.to, t.f)
	return err
}

func (t *tap) close() { t.f.Close() }

type input struct{ f *os.File }

func newInput(path string) (*Input, error) {
	if err := makeFifo(path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return &Input{input{f}}, nil
}

func (i *input) copy(r io.Reader) error {
	_, err := io.Copy(i.f, r)
	return err
}

func (i *input) close() { i.f.Close() }

func makeInlet(path string) (string, error) {
	if err := makeFifo(path); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return path, nil
}

func openInput(_ context.Context, path string) (*Input, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("nobody reads %s: %w", path, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return &Input{input{f}}, nil
}

func killTree(pid int) error {
	stopped := map[int]bool{pid: true}
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		return fmt.Errorf("cannot stop process %d: %w", pid, err)
	}
	for grown := true; grown; {
		grown = false
		all, err := processes()
		if err != nil {
			return err
		}
		for _, p := range all {
			if !stopped[p.pid] && (stopped[p.parent] || p.session == pid) {
				grown = true
				stopped[p.pid] = true
				_ = unix.Kill(p.pid, unix.SIGSTOP) // gone is as good
			}
		}
	}
	for p := range stopped {
		_ = unix.Kill(p, unix.SIGKILL)
	}
	return nil
}

type processStat struct{ pid, parent, session int }

// processes reads /proc/PID/stat of all (proc_pid_stat(5): the name in parentheses, then state, parent, group, session).
func processes() ([]processStat, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var list []processStat
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue
		}
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) < 4 {
			continue
		}
		parent, _ := strconv.Atoi(string(fields[1]))
		session, _ := strconv.Atoi(string(fields[3]))
		list = append(list, processStat{pid: pid, parent: parent, session: session})
	}
	return list, nil
}
