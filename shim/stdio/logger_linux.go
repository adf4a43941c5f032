package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// openLogger starts a logger program as containerd does (its runtime v2 README, "Logging"): descriptors 3 and 4 are the
// process's output and error, 5 is closed when the program is ready; for binary-v2 it writes a byte there first. It is told
// CONTAINER_ID and CONTAINER_NAMESPACE.
func (s *Set) openLogger(ctx context.Context, c Config, t target) error {
	cmd := exec.Command(t.path, t.args...)
	cmd.Env = append(os.Environ(), "CONTAINER_ID="+c.ID, "CONTAINER_NAMESPACE="+c.Namespace)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	k := &logger{cmd: cmd, log: c.Log, ended: make(chan struct{})}
	outs := []struct {
		name string
		w    *io.Writer
	}{{"stdout", &s.io.Stdout}, {"stderr", &s.io.Stderr}}
	for _, o := range outs {
		path := c.fifoPath(o.name)
		if err := makeFifo(path); err != nil {
			return err
		}
		s.paths = append(s.paths, path)
		k.paths = append(k.paths, path)
		flags := unix.O_RDWR
		if c.Terminal {
			flags |= unix.O_NONBLOCK // for the executor, which copies
		}
		w, err := openFd(path, flags)
		if err != nil {
			return err
		}
		s.files = append(s.files, w)
		*o.w = w
		if c.Terminal && o.name == "stdout" {
			*o.w, s.kept.Stdout = survivor{w}, w
		}
		r, err := openFd(path, unix.O_RDONLY)
		if err != nil {
			return err
		}
		defer r.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, r)
	}
	ready, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd.ExtraFiles = append(cmd.ExtraFiles, tell)
	err = cmd.Start()
	tell.Close()
	if err != nil {
		return fmt.Errorf("cannot start logger %s: %w", t.path, err)
	}
	go k.wait()
	if err := awaitReady(ctx, ready, t.scheme == "binary-v2"); err != nil {
		k.finish()
		_ = cmd.Process.Kill()
		<-k.ended
		return fmt.Errorf("logger %s is not ready: %w", t.path, err)
	}
	s.sinks = append(s.sinks, k)
	return nil
}

// awaitReady reads descriptor 5 to its end.
func awaitReady(ctx context.Context, ready *os.File, wantByte bool) error {
	ctx, cancel := context.WithTimeout(ctx, loggerWait)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var b [1]byte
	n, err := ready.Read(b[:])
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("it was given %s: %w", loggerWait, errdefs.ErrUnavailable)
	case wantByte && n == 0:
		return fmt.Errorf("it ended: %w", errdefs.ErrUnavailable)
	case n == 0 && errors.Is(err, io.EOF), wantByte:
		return nil
	}
	return err
}

// logger is a running logger program. When it dies before the process does, output is read to nowhere so that the process
// does not come to a stand.
type logger struct {
	cmd   *exec.Cmd
	log   *slog.Logger
	paths []string
	ended chan struct{}

	mu       sync.Mutex
	finished bool
	drains   []*pump
}

func (k *logger) wait() {
	defer close(k.ended)
	err := k.cmd.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.finished {
		return
	}
	k.log.Error("logger has ended before its container; output is dropped", "logger", k.cmd.Path, "error", err)
	for _, path := range k.paths {
		r, err := openFd(path, unix.O_RDWR|unix.O_NONBLOCK)
		if err != nil {
			k.log.Error("cannot drain output", "path", path, "error", err)
			continue
		}
		k.drains = append(k.drains, startPump(r, func([]byte) {}))
	}
}

// finish leaves the program to read what is left; it sees the end once Finish has closed our ends.
func (k *logger) finish() {
	k.mu.Lock()
	k.finished = true
	drains := k.drains
	k.mu.Unlock()
	for _, d := range drains {
		d.finish()
	}
}

func (k *logger) reopen() error { return nil }

// LoggerStreams are what a logger program is to read and to close (LogCRI), the caller's to close.
func LoggerStreams() (stdout, stderr io.ReadCloser, ready io.Closer, err error) {
	return os.NewFile(3, "stdout"), os.NewFile(4, "stderr"), os.NewFile(5, "ready"), nil
}
