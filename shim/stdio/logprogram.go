package stdio

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

// loggerWait is how long a logger program has to say that it is ready.
const loggerWait = 10 * time.Second

// LogCRI writes what comes out of stdout and stderr to a log file in Kubernetes' format until both have ended: it is the logger program
// (binary://) of containers whose shims know no such format. ready is closed when it reads. After a rotation the log goes on in a new file, without
// being told.
func LogCRI(path string, stdout, stderr io.Reader, ready io.Closer, log *slog.Logger) error {
	l, err := newCRIFile(path, log)
	if err != nil {
		return err
	}
	defer l.close()
	if err := ready.Close(); err != nil {
		return err
	}
	var wait sync.WaitGroup
	errs := make([]error, 2)
	for i, f := range []io.Reader{stdout, stderr} {
		wait.Go(func() { errs[i] = l.follow([]string{"stdout", "stderr"}[i], f) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// follow writes one stream to its end.
func (l *criFile) follow(stream string, f io.Reader) error {
	buf := make([]byte, maxLine)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			l.renew()
			l.write(stream, buf[:n])
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("cannot read %s of the container: %w", stream, err)
		}
	}
}

// renew opens the file anew when it is not the one of its name any more.
func (l *criFile) renew() {
	l.mu.Lock()
	have, err := l.f.Stat()
	l.mu.Unlock()
	named, serr := os.Stat(l.path)
	if err == nil && serr == nil && os.SameFile(have, named) {
		return
	}
	if err := l.reopen(); err != nil {
		l.log.Error("cannot open the log anew", "path", l.path, "error", err)
	}
}
