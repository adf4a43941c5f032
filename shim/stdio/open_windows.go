package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/Microsoft/go-winio"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/windows"
)

// terminalsAreStreams: the system keeps a console, and gives its streams out again.
const terminalsAreStreams = true

// dialTimeout is how long a client's pipe may be busy.
const dialTimeout = 5 * time.Second

// localPath is the path in a URI: /C:/dir/file names C:\dir\file, and //./pipe/name a pipe.
func localPath(path string) string {
	if len(path) > 2 && path[0] == '/' && path[2] == ':' {
		path = path[1:]
	}
	return filepath.FromSlash(path)
}

func isPipe(path string) bool { return strings.HasPrefix(strings.ToLower(path), `\\.\pipe\`) }

func dialPipe(ctx context.Context, path string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := winio.DialPipeContext(ctx, path)
	if errors.Is(err, windows.ERROR_FILE_NOT_FOUND) {
		err = fmt.Errorf("no client listens at %s: %w", path, errdefs.ErrNotFound)
	}
	return conn, err
}

func openTap(path string) (tapEnd, error) {
	if !isPipe(path) {
		return nil, fmt.Errorf("%q is no pipe: %w", path, errdefs.ErrInvalidArgument)
	}
	return dialPipe(context.Background(), path)
}

func (s *Set) open(ctx context.Context, c Config) error {
	if err := s.openInput(ctx, c); err != nil {
		return fmt.Errorf("cannot open standard input %s: %w", c.Stdin, err)
	}
	if err := s.openOutputs(ctx, c); err != nil {
		return fmt.Errorf("cannot open standard output %s%s: %w", c.Stdout, c.Stderr, err)
	}
	return nil
}

// openInput dials the pipe that the client writes to, and then the input's end is the client's to make; or listens. The executor copies from it.
func (s *Set) openInput(ctx context.Context, c Config) error {
	t, err := parse(c.Stdin)
	switch {
	case err != nil || t.path == "":
		return err
	case t.scheme == "inlet":
		in, err := newInlet(t.path)
		if err == nil {
			s.files, s.io.Stdin, s.inlet = append(s.files, in), in, in
		}
		return err
	case !isPipe(t.path):
		return fmt.Errorf("standard input must be a pipe: %w", errdefs.ErrInvalidArgument)
	}
	conn, err := dialPipe(ctx, t.path)
	if err != nil {
		return err
	}
	s.files = append(s.files, conn)
	s.io.Stdin = conn
	return nil
}

// openOutputs opens the second even when the first cannot be had: attach wants what there is.
func (s *Set) openOutputs(ctx context.Context, c Config) error {
	stdout, stderr, err := c.outputs()
	if err != nil {
		return err
	}
	switch {
	case stdout.scheme == "cri" || stderr.scheme == "cri":
		return s.openCRI(c, stdout, stderr)
	case stdout.scheme == "binary" || stdout.scheme == "binary-v2":
		return s.openLogger(ctx, c, stdout)
	}
	var oerr, eerr error
	s.io.Stdout, oerr = s.openOutput(ctx, stdout)
	if stderr.scheme == stdout.scheme && stderr.path == stdout.path {
		s.io.Stderr = s.io.Stdout
	} else {
		s.io.Stderr, eerr = s.openOutput(ctx, stderr)
	}
	return errors.Join(oerr, eerr)
}

func (s *Set) openCRI(c Config, stdout, stderr target) error {
	path, err := logPath(stdout, stderr)
	if err != nil {
		return err
	}
	log, err := newCRIFile(path, c.Log)
	if err != nil {
		return err
	}
	s.sinks = append(s.sinks, &criSink{criFile: log})
	if stdout.scheme != "" {
		s.io.Stdout = criStream{log, "stdout"}
	}
	if stderr.scheme != "" {
		s.io.Stderr = criStream{log, "stderr"}
	}
	return nil
}

// openOutput opens what is no log of ours: a client's pipe, or a file.
func (s *Set) openOutput(ctx context.Context, t target) (io.Writer, error) {
	switch {
	case t.path == "":
		return nil, nil
	case t.scheme != "fifo" && t.scheme != "file":
		return nil, fmt.Errorf("a %s logger is for standard output, and gets both: %w", t.scheme, errdefs.ErrInvalidArgument)
	case isPipe(t.path):
		conn, err := dialPipe(ctx, t.path)
		if err != nil {
			return nil, err
		}
		s.files = append(s.files, conn)
		return &survivor{conn: conn}, nil
	}
	f, err := openAppend(t.path)
	if err != nil {
		return nil, err
	}
	s.files = append(s.files, f)
	return appender{f}, nil
}

// survivor writes to a client's pipe; when the client has gone, the output is dropped and the process goes on.
type survivor struct {
	mu   sync.Mutex // both streams may be one pipe
	conn net.Conn
	gone bool
}

func (w *survivor) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.gone {
		_, err := w.conn.Write(p)
		w.gone = err != nil
	}
	return len(p), nil
}

// appender hides that it is a file: no process can be given one here, it is always copied to.
type appender struct{ io.Writer }

// attach dials and opens as Open does; what cannot be had any more is left out.
func (s *Set) attach(c Config, stdinClosed bool) {
	ctx := context.Background()
	if !stdinClosed {
		if err := s.openInput(ctx, c); err != nil {
			c.Log.Warn("cannot reopen standard input", "container", c.ID, "exec", c.ExecID, "uri", c.Stdin, "error", err)
		}
	}
	if err := s.openOutputs(ctx, c); err != nil {
		c.Log.Warn("cannot reopen output", "container", c.ID, "exec", c.ExecID, "error", err)
	}
}

// attachTerminal is never asked for here: see terminalsAreStreams.
func (s *Set) attachTerminal(Config, bool, Kept) {}

// Hold has nothing to hold: input ends when the client ends it.
func (s *Set) Hold() (bool, error) { return true, nil }
