package stdio

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/Microsoft/go-winio"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/windows"
)

// Where a logger program of Windows finds its pipes: it reads the first two to their ends, and closes the third when it is ready to.
const (
	loggerStdout = "CONTAINER_STDOUT"
	loggerStderr = "CONTAINER_STDERR"
	loggerReady  = "CONTAINER_WAIT"
)

// onlyOurs lets administrators and the system in, and nobody else; see package ipc.
const onlyOurs = "D:P(A;;GA;;;BA)(A;;GA;;;SY)"

// openLogger starts a logger program as containerd's shim of Windows does (hcsshim, NewBinaryIO): it dials the pipes that its environment names, beside
// CONTAINER_ID and CONTAINER_NAMESPACE.
func (s *Set) openLogger(ctx context.Context, c Config, t target) (err error) {
	ctx, cancel := context.WithTimeout(ctx, loggerWait)
	defer cancel()
	k := &logger{cmd: exec.Command(t.path, t.args...), log: c.Log, ended: make(chan struct{})}
	k.cmd.Env = append(os.Environ(), "CONTAINER_ID="+c.ID, "CONTAINER_NAMESPACE="+c.Namespace)
	k.cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP | windows.DETACHED_PROCESS, HideWindow: true}
	pipes, err := k.listen()
	if err != nil {
		return fmt.Errorf("cannot make a pipe for logger %s: %w", t.path, err)
	}
	defer func() {
		for _, p := range pipes {
			p.close(err != nil)
		}
	}()
	if err := k.cmd.Start(); err != nil {
		return fmt.Errorf("cannot start logger %s: %w", t.path, err)
	}
	go k.wait()
	defer func() {
		if err != nil {
			k.finish()
			_ = k.cmd.Process.Kill()
			<-k.ended
		}
	}()
	for _, p := range pipes {
		select {
		case p.conn = <-p.accepted:
		case <-k.ended:
			return fmt.Errorf("logger %s ended before it was ready: %w", t.path, errdefs.ErrUnavailable)
		case <-ctx.Done():
			return fmt.Errorf("logger %s is not ready: it was given %s to dial %s: %w", t.path, loggerWait, p.name, errdefs.ErrUnavailable)
		}
	}
	stdout, stderr, ready := pipes[0].conn, pipes[1].conn, pipes[2].conn
	if err := awaitReady(ctx, ready, t.scheme == "binary-v2"); err != nil {
		return fmt.Errorf("logger %s is not ready: %w", t.path, err)
	}
	ready.Close()
	k.outputs = []net.Conn{stdout, stderr}
	s.io.Stdout, s.io.Stderr = &survivor{conn: stdout}, &survivor{conn: stderr}
	s.sinks = append(s.sinks, k)
	return nil
}

// loggerPipe is one pipe that a logger program is to dial, once.
type loggerPipe struct {
	name     string
	listener net.Listener
	accepted chan net.Conn
	conn     net.Conn // once it was taken from accepted
}

// listen makes the pipes of a program and tells it their names.
func (k *logger) listen() (pipes []*loggerPipe, err error) {
	for _, name := range []string{loggerStdout, loggerStderr, loggerReady} {
		path := `\\.\pipe\slipway-log-` + rand.Text()
		l, err := winio.ListenPipe(path, &winio.PipeConfig{SecurityDescriptor: onlyOurs, InputBufferSize: 1 << 16, OutputBufferSize: 1 << 16})
		if err != nil {
			for _, p := range pipes {
				p.close(true)
			}
			return nil, err
		}
		p := &loggerPipe{name: name, listener: l, accepted: make(chan net.Conn, 1)}
		pipes = append(pipes, p)
		k.cmd.Env = append(k.cmd.Env, name+"="+path)
		go func() {
			defer close(p.accepted)
			if conn, err := l.Accept(); err == nil {
				p.accepted <- conn
			}
		}()
	}
	return pipes, nil
}

// close waits until nobody dials any more, and gives up the connection too when all was in vain.
func (p *loggerPipe) close(all bool) {
	p.listener.Close()
	for conn := range p.accepted {
		conn.Close()
	}
	if all && p.conn != nil {
		p.conn.Close()
	}
}

// awaitReady reads the third pipe: the end of it, or a byte, which binary-v2 must write.
func awaitReady(ctx context.Context, conn net.Conn, wantByte bool) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetReadDeadline(deadline); err != nil {
			return err
		}
	}
	var b [1]byte
	n, err := conn.Read(b[:])
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("it was given %s: %w", loggerWait, errdefs.ErrUnavailable)
	case n == 0 && wantByte:
		return fmt.Errorf("it ended: %w", errdefs.ErrUnavailable)
	case n == 1 || errors.Is(err, io.EOF) || errors.Is(err, windows.ERROR_BROKEN_PIPE):
		return nil
	}
	return err
}

// logger is a running logger program. When it dies before the process does, output is dropped so that the process does not come to a stand; and so it is,
// but for what a successor's logger is given, when the shim dies.
type logger struct {
	cmd      *exec.Cmd
	log      *slog.Logger
	outputs  []net.Conn // closed by finish
	ended    chan struct{}
	finished atomic.Bool
}

// loggerReads is how long the end of a process waits for its logger to read what is left, which closing the pipe might discard.
const loggerReads = 5 * time.Second

func (k *logger) wait() {
	defer close(k.ended)
	if err := k.cmd.Wait(); !k.finished.Load() {
		k.log.Error("logger has ended before its container; output is dropped", "logger", k.cmd.Path, "error", err)
	}
}

// finish has the program read what is left and then the end. One that does not read is not waited for.
func (k *logger) finish() {
	k.finished.Store(true)
	var reading sync.WaitGroup
	for _, conn := range k.outputs { // each for itself: programs read in whichever order
		reading.Go(func() { // ends with the program at the latest
			if f, ok := conn.(interface{ Flush() error }); ok {
				_ = f.Flush() // an error says that nobody reads any more
			}
			conn.Close()
		})
	}
	read := make(chan struct{})
	go func() {
		reading.Wait()
		close(read)
	}()
	timer := time.NewTimer(loggerReads)
	defer timer.Stop()
	select {
	case <-read:
	case <-timer.C:
		k.log.Warn("logger does not read what is left of its container's output", "logger", k.cmd.Path)
	}
}

func (k *logger) reopen() error { return nil }

// LoggerStreams are what a logger program is to read and to close (LogCRI), the caller's to close.
func LoggerStreams() (stdout, stderr io.ReadCloser, ready io.Closer, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), loggerWait)
	defer cancel()
	var conns [3]net.Conn
	for i, name := range []string{loggerStdout, loggerStderr, loggerReady} {
		if conns[i], err = winio.DialPipeContext(ctx, os.Getenv(name)); err != nil {
			for _, conn := range conns[:i] {
				conn.Close()
			}
			return nil, nil, nil, fmt.Errorf("cannot dial the pipe that %s names: %w", name, err)
		}
	}
	return conns[0], conns[1], conns[2], nil
}
