package stdio

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func (c Config) warn(uri string, err error) {
	c.Log.Warn("cannot reopen stream", "container", c.ID, "exec", c.ExecID, "uri", uri, "error", err)
}

func (s *Set) attach(c Config, stdinClosed bool) {
	if t, err := parse(c.Stdin); err == nil && t.path != "" && !stdinClosed {
		if s.hold, err = openFd(t.path, unix.O_RDWR|unix.O_NONBLOCK); err != nil {
			c.warn(c.Stdin, err)
		}
	}
	var logs *criSink
	for _, stream := range []struct{ name, uri string }{{"stdout", c.Stdout}, {"stderr", c.Stderr}} {
		t, err := parse(stream.uri)
		if err != nil || t.path == "" {
			continue
		}
		switch fifo, _ := isFifo(t.path); {
		case t.scheme == "cri":
			if logs == nil {
				log, err := newCRIFile(t.path, c.Log)
				if err != nil {
					c.warn(stream.uri, err)
					continue
				}
				logs = &criSink{criFile: log}
				s.sinks = append(s.sinks, logs)
			}
			err = s.pumpTo(c, logs, stream.name)
		case t.scheme == "fifo" && fifo:
			var hold *os.File
			if hold, err = openFd(t.path, unix.O_RDWR|unix.O_NONBLOCK); err == nil {
				s.files = append(s.files, hold)
			}
		case t.scheme == "binary" || t.scheme == "binary-v2":
			s.paths = append(s.paths, c.fifoPath(stream.name)) // its program has them open and reads on
		}
		if err != nil {
			c.warn(stream.uri, err)
		}
	}
}

func (s *Set) attachTerminal(c Config, stdinClosed bool, kept Kept) {
	s.kept = kept
	for _, f := range []*os.File{kept.Stdin, kept.Stdout} {
		if f != nil {
			s.files = append(s.files, f)
		}
	}
	if kept.Stdin != nil {
		s.io.Stdin = source{kept.Stdin}
		if !stdinClosed {
			if err := s.holdOpen(kept.Stdin); err != nil {
				c.warn(c.Stdin, err)
			}
		}
	}
	if kept.Stdout != nil {
		s.io.Stdout = survivor{kept.Stdout}
	}
	t, err := parse(c.Stdout)
	switch {
	case err != nil || t.path == "":
	case t.scheme == "cri":
		err = s.openCRI(c, t, target{})
	case t.scheme == "binary" || t.scheme == "binary-v2":
		s.paths = append(s.paths, c.fifoPath("stdout"), c.fifoPath("stderr"))
	case kept.Stdout == nil:
		if fifo, _ := isFifo(t.path); fifo {
			break // whoever reads it has seen its end
		}
		var f *os.File
		if f, err = openAppend(t.path); err == nil {
			s.files = append(s.files, f)
			s.io.Stdout = f
		}
	}
	if err != nil {
		c.warn(c.Stdout, err)
	}
}

// holdOpen holds the fifo that r reads, whatever has become of its name.
func (s *Set) holdOpen(r *os.File) error {
	conn, err := r.SyscallConn()
	if err != nil {
		return err
	}
	cerr := conn.Control(func(fd uintptr) {
		s.hold, err = openFd(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDWR|unix.O_NONBLOCK)
	})
	if cerr != nil {
		return cerr
	}
	return err
}
