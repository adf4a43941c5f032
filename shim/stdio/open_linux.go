package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func (s *Set) open(ctx context.Context, c Config) error {
	if err := s.openStdin(c); err != nil {
		return fmt.Errorf("cannot open standard input %s: %w", c.Stdin, kind(err))
	}
	stdout, stderr, err := c.outputs()
	if err != nil {
		return err
	}
	switch {
	case stdout.scheme == "cri" || stderr.scheme == "cri":
		err = s.openCRI(c, stdout, stderr)
	case stdout.scheme == "binary" || stdout.scheme == "binary-v2":
		err = s.openLogger(ctx, c, stdout)
	default:
		if s.io.Stdout, err = s.openOutput(ctx, c, stdout); err == nil {
			if stderr.path != "" && stderr.path == stdout.path {
				s.io.Stderr = s.io.Stdout
			} else {
				s.io.Stderr, err = s.openOutput(ctx, c, stderr)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("cannot open standard output %s%s: %w", c.Stdout, c.Stderr, kind(err))
	}
	return nil
}

// kind gives an error of the file system the kind that a client understands.
func kind(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	case errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENAMETOOLONG):
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
	}
	return err
}

// openStdin gives the process the reading end. That it does not end when a client goes is Hold's business; for a terminal
// it is held at once, because the executor begins to copy before any client may be there.
func (s *Set) openStdin(c Config) error {
	if c.Stdin == "" {
		return nil
	}
	t, err := parse(c.Stdin)
	if err != nil {
		return err
	}
	if t.scheme == "inlet" {
		return fmt.Errorf("name a fifo, which clients may come to and leave as well: %w", errdefs.ErrNotImplemented)
	}
	fifo, err := isFifo(t.path)
	if err != nil {
		return err
	}
	r, err := openFd(t.path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	s.files = append(s.files, r)
	s.io.Stdin = r
	if !fifo {
		return nil
	}
	if c.Terminal { // the executor copies from it, and Finish must be able to end that
		s.hold, err = openFd(t.path, unix.O_RDWR|unix.O_NONBLOCK)
		s.io.Stdin, s.kept.Stdin = source{r}, r
		return err
	}
	s.input, s.inputPath = r, t.path
	return blocking(r)
}

// Hold keeps standard input open from here on, until CloseStdin, whatever clients come and go, as containerd's clients expect. It
// belongs right before the process's start. A client that wrote all it had and closed before that had no chance to ask
// for CloseIO: then the input ends with what it wrote, and Hold answers false.
func (s *Set) Hold() (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.input == nil || s.hold != nil {
		return true, nil
	}
	conn, err := s.input.SyscallConn()
	if err != nil {
		return true, err
	}
	gone := false
	err = conn.Control(func(fd uintptr) {
		// The kernel says so only when there was a writer since we opened it (fs/pipe.c, pipe_poll).
		p := []unix.PollFd{{Fd: int32(fd)}}
		n, _ := unix.Poll(p, 0)
		gone = n > 0 && p[0].Revents&unix.POLLHUP != 0
	})
	path := s.inputPath
	s.input = nil
	if err != nil || gone {
		return !gone, err
	}
	s.hold, err = openFd(path, unix.O_RDWR|unix.O_NONBLOCK)
	return true, err
}

// openOutput opens what is no logger: a fifo or a file.
func (s *Set) openOutput(ctx context.Context, c Config, t target) (io.Writer, error) {
	if t.path == "" {
		return nil, nil
	}
	if t.scheme != "fifo" && t.scheme != "file" {
		return nil, fmt.Errorf("a logger must take both streams: %w", errdefs.ErrInvalidArgument)
	}
	if t.scheme == "fifo" {
		fifo, err := isFifo(t.path)
		if err != nil {
			return nil, err
		}
		if fifo {
			return s.openFifo(ctx, c, t.path)
		}
	}
	f, err := openAppend(t.path)
	if err != nil {
		return nil, err
	}
	s.files = append(s.files, f)
	return f, nil
}

// openFifo opens a client's fifo to write to. The process gets a descriptor of its own, and the shim's read-write one sees to
// it that there is a reader always. A terminal is copied by the executor: there the client's going away is seen and outlived by survivor.
func (s *Set) openFifo(ctx context.Context, c Config, path string) (io.Writer, error) {
	w, err := openWriter(ctx, path)
	if err != nil {
		return nil, err
	}
	s.files = append(s.files, w)
	if c.Terminal {
		s.kept.Stdout = w
		return survivor{w}, nil
	}
	hold, err := openFd(path, unix.O_RDWR|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	s.files = append(s.files, hold)
	return w, blocking(w)
}

// openCRI opens the log file and a fifo of ours for each stream that goes to it.
func (s *Set) openCRI(c Config, stdout, stderr target) error {
	path, err := logPath(stdout, stderr)
	if err != nil {
		return err
	}
	log, err := newCRIFile(path, c.Log)
	if err != nil {
		return err
	}
	all := &criSink{criFile: log}
	s.sinks = append(s.sinks, all)
	for _, stream := range []struct {
		name string
		t    target
		w    *io.Writer
	}{{"stdout", stdout, &s.io.Stdout}, {"stderr", stderr, &s.io.Stderr}} {
		if stream.t.scheme == "" {
			continue
		}
		if c.Terminal { // no process has this descriptor: the executor copies, and there is nothing to outlive
			*stream.w = criStream{log, stream.name}
			continue
		}
		if err := s.pumpTo(c, all, stream.name); err != nil {
			return err
		}
		w, err := openFd(c.fifoPath(stream.name), unix.O_RDWR)
		if err != nil {
			return err
		}
		s.files = append(s.files, w)
		*stream.w = w
	}
	return nil
}

// pumpTo starts carrying one stream into the log.
func (s *Set) pumpTo(c Config, all *criSink, stream string) error {
	path := c.fifoPath(stream)
	if err := makeFifo(path); err != nil {
		return err
	}
	s.paths = append(s.paths, path)
	r, err := openFd(path, unix.O_RDWR|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	all.pumps = append(all.pumps, startPump(r, func(b []byte) { all.write(stream, b) }))
	return nil
}

// openTap opens a client's fifo, which has a reader.
func openTap(path string) (tapEnd, error) { return openFd(path, unix.O_WRONLY|unix.O_NONBLOCK) }
