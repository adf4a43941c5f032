// Package stdio opens what a client named for a process's standard streams: fifos, files, log files in Kubernetes' format
// and logger programs. It belongs to the shim.
//
// The rule is that a process never waits for, and never dies of, those who read it: where the client named a fifo, the
// process gets it as it is, and the shim holds it open read-write; where the shim or a logger program reads, the process's
// end is a named fifo opened read-write, so that the reader may die and another may go on.
//
// On Windows a process's output always passes through the shim, which dials the pipes that clients listen at: a client that goes is
// written to no more, and a new shim dials again.
//
// It imports package platform for its IO type, and nothing of ttrpc or of executors.
//
// What a crash leaves: named fifos in the directory of the container; Attach opens them again and the logger goes on where
// the dead one stopped. Of a terminal, which the shim copies, only the shim has the ends of fifos open: Kept is what somebody else
// must hold for AttachTerminal to go on with, or readers and writers see an end.
package stdio

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/slipwayd/slipway/platform"
)

// Streams are the URIs that a client named: "" for none, a bare path for a fifo (or a regular file, which is appended to; on Windows
// \\.\pipe\NAME is a pipe that the client listens at), file:///PATH, file:///PATH?format=cri for a log file in Kubernetes' format, binary:///PATH?ARG=VALUE and binary-v2:// for
// a logger program (output only). It is containerd's convention, cri apart. inlet:///PATH is an input on Windows that clients write who come and go: the shim
// listens, and PATH names the pipe as in package ipc.
type Streams struct {
	Stdin, Stdout, Stderr string
	Terminal              bool
}

// Config is what Open and Attach need to know.
type Config struct {
	Streams
	Dir                   string // where fifos of ours live: the bundle
	Namespace, ID, ExecID string // ExecID is "" for init
	Log                   *slog.Logger
}

// Set is the open streams of one process. Its owner calls Finish once the process has ended or was never made.
type Set struct {
	io   platform.IO
	log  *slog.Logger
	kept Kept

	mu        sync.Mutex
	hold      *os.File // keeps a stdin fifo from ending while no client writes
	input     *os.File // the fifo that Hold is still to hold, and its path
	inputPath string
	inlet     io.Closer   // standard input that clients find by a file, on Windows
	files     []io.Closer // closed by Finish, after sinks have drained
	paths     []string    // fifos of ours, removed by Finish
	sinks     []sink
	ending    bool
}

// sink is a reader of the process's output that Finish lets come to its end.
type sink interface {
	finish() // drain what is there, then stop and wait
	reopen() error
}

// target is one parsed URI.
type target struct {
	scheme string // "", fifo, inlet, file, cri, binary, binary-v2
	path   string
	args   []string // of a logger program
}

// outputs are where both outputs go; a terminal has one only.
func (c Config) outputs() (stdout, stderr target, err error) {
	if stdout, err = parse(c.Stdout); err != nil {
		return stdout, stderr, err
	}
	if stderr, err = parse(c.Stderr); err != nil || c.Terminal {
		stderr = target{}
	}
	return stdout, stderr, err
}

// parse understands one URI of an output; InvalidArgument says what is wrong with it.
func parse(uri string) (target, error) {
	if uri == "" {
		return target{}, nil
	}
	bad := func(why string) (target, error) {
		return target{}, fmt.Errorf("cannot use %q as a stream: %s: %w", uri, why, errdefs.ErrInvalidArgument)
	}
	if len(uri) > 4096 || strings.ContainsRune(uri, 0) {
		return bad("it is too long or has a zero byte")
	}
	if !strings.Contains(uri, "://") {
		if !filepath.IsAbs(uri) {
			return bad("the path of a fifo must be absolute")
		}
		return target{scheme: "fifo", path: uri}, nil
	}
	u, err := url.Parse(uri)
	if err != nil {
		return bad(err.Error())
	}
	t := target{scheme: u.Scheme, path: filepath.Clean(localPath(u.Path))}
	if u.Host != "" || !filepath.IsAbs(t.path) {
		return bad("it needs an absolute path, as in " + u.Scheme + ":///path")
	}
	switch u.Scheme {
	case "fifo", "inlet":
	case "npipe": // as Kubernetes writes pipes of Windows; elsewhere there is no file of such a name
		t.scheme = "fifo"
	case "file":
		switch format := u.Query().Get("format"); format {
		case "":
		case "cri":
			t.scheme = "cri"
		default:
			return bad("there is no log format " + format)
		}
	case "binary", "binary-v2":
		t.args = arguments(u.RawQuery)
	default:
		return bad("only fifo, file, binary and binary-v2 are known")
	}
	return t, nil
}

// arguments turns the query of a binary URI into a command line: each key, then its value when it has one, in the order
// in which they were written.
func arguments(query string) []string {
	var args []string
	for part := range strings.SplitSeq(query, "&") {
		if part == "" {
			continue
		}
		key, value, ok := strings.Cut(part, "=")
		for _, s := range []string{key, value} {
			if t, err := url.QueryUnescape(s); err == nil {
				s = t
			}
			if s != "" {
				args = append(args, s)
			}
			if !ok {
				break
			}
		}
	}
	return args
}

// Validate parses all three URIs without opening anything.
func (s Streams) Validate() error {
	for i, uri := range []string{s.Stdin, s.Stdout, s.Stderr} {
		t, err := parse(uri)
		if err != nil {
			return err
		}
		if i == 0 && t.scheme != "" && t.scheme != "fifo" && t.scheme != "inlet" {
			return fmt.Errorf("cannot use %q as standard input: only a fifo can be: %w", uri, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// Open opens the streams of a process that is about to be made. It waits a few seconds, not for ever, for a client that
// named a fifo to open its end, so that not even a process that ends at once is unheard. After an error nothing is left open.
func Open(ctx context.Context, c Config) (*Set, error) {
	s := &Set{log: c.Log}
	s.io.Terminal = c.Terminal
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if err := s.open(ctx, c); err != nil {
		s.Finish()
		return nil, err
	}
	return s, nil
}

// Attach opens again what a dead shim had open for a process that still lives; what cannot be opened any more is logged
// and left out. stdinClosed says that the client closed standard input already. A terminal's streams are left alone: they are
// AttachTerminal's.
func Attach(c Config, stdinClosed bool) *Set {
	s := &Set{log: c.Log}
	s.io.Terminal = c.Terminal
	if !c.Terminal || terminalsAreStreams {
		s.attach(c, stdinClosed)
	}
	return s
}

// AttachTerminal is Attach for a process at a terminal, with what was kept of a dead shim; that belongs to the Set now. IO answers what an
// executor is to go on copying.
func AttachTerminal(c Config, stdinClosed bool, kept Kept) *Set {
	s := &Set{log: c.Log}
	s.io.Terminal = true
	s.attachTerminal(c, stdinClosed, kept)
	return s
}

// Kept are the open ends that a terminal's other side would take the loss of for an end; nil for none. What can be opened by its
// name again is not among them.
type Kept struct {
	Stdin  *os.File // reads a client's fifo
	Stdout *os.File // writes to a client's fifo, or a logger program's
}

// Kept answers the ends of a process at a terminal. They are the Set's.
func (s *Set) Kept() Kept { return s.kept }

// IO is what the executor is given. It belongs to the Set.
func (s *Set) IO() platform.IO { return s.io }

// CloseStdin ends standard input once the client's own end is closed too.
func (s *Set) CloseStdin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.input = nil
	if s.hold != nil {
		s.hold.Close()
		s.hold = nil
	}
	if s.inlet != nil {
		s.inlet.Close()
		s.inlet = nil
	}
}

// Reopen opens the log file by its name again, after somebody moved it away.
func (s *Set) Reopen() error {
	s.mu.Lock()
	sinks := s.sinks
	s.mu.Unlock()
	for _, k := range sinks {
		if err := k.reopen(); err != nil {
			return err
		}
	}
	return nil
}

// Finish takes what output is left to where it belongs and closes everything, so that clients read the end. It may be
// called again.
func (s *Set) Finish() {
	s.mu.Lock()
	if s.ending {
		s.mu.Unlock()
		return
	}
	s.ending = true
	s.mu.Unlock()
	s.CloseStdin()
	for _, k := range s.sinks {
		k.finish()
	}
	for _, f := range s.files {
		f.Close()
	}
	for _, p := range s.paths {
		if err := os.Remove(p); err != nil && !os.IsNotExist(err) {
			s.log.Warn("cannot remove fifo", "path", p, "error", err)
		}
	}
}

// fifoPath names a fifo of ours for one stream of one process.
func (c Config) fifoPath(stream string) string {
	name := "init"
	if c.ExecID != "" {
		name = "exec-" + c.ExecID
	}
	return filepath.Join(c.Dir, name+"-"+stream+".fifo")
}
