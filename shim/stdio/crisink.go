package stdio

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/containerd/errdefs"
)

// criSink is a log file with the pumps that fill it.
type criSink struct {
	*criFile
	pumps []interface{ finish() }
}

func (k *criSink) finish() {
	for _, p := range k.pumps {
		p.finish()
	}
	k.close()
}

// criStream is one stream of a log, for what is copied into it.
type criStream struct {
	log    *criFile
	stream string
}

func (w criStream) Write(p []byte) (int, error) {
	w.log.write(w.stream, p)
	return len(p), nil
}

// logPath is the file that both streams, or the only one, go to.
func logPath(stdout, stderr target) (string, error) {
	path := stdout.path
	if path == "" {
		path = stderr.path
	}
	for _, t := range []target{stdout, stderr} {
		if t.scheme != "" && (t.scheme != "cri" || t.path != path) {
			return "", fmt.Errorf("both streams must go to the same log: %w", errdefs.ErrInvalidArgument)
		}
	}
	return path, nil
}

// Tap lets a client read along with what the process writes from now on: stdout and stderr are its fifos or pipes, "" for none, and it has their
// reading ends open. They end with the process, with this shim, or when the client does not keep up. FailedPrecondition when the output
// does not go to a log, NotFound after the end.
func (s *Set) Tap(stdout, stderr string) error {
	s.mu.Lock()
	sinks := s.sinks
	s.mu.Unlock()
	for _, k := range sinks {
		log, ok := k.(*criSink)
		if !ok {
			continue
		}
		one := tap{}
		for name, path := range map[string]string{"stdout": stdout, "stderr": stderr} {
			if path == "" {
				continue
			}
			f, err := openTap(path)
			if errors.Is(err, fs.ErrNotExist) {
				err = fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
			}
			if err != nil {
				one.close()
				return fmt.Errorf("cannot open a client's pipe: %w", err)
			}
			one[name] = f
		}
		return log.taps.add(one)
	}
	return fmt.Errorf("only output that goes to a log can be read along: %w", errdefs.ErrFailedPrecondition)
}
