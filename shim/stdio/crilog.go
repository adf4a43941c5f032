package stdio

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// maxLine is the longest piece of text on one line of a log; longer lines become several with the tag P.
const maxLine = 16 << 10

// timeFormat is RFC 3339 with all nine digits, as the Kubernetes CRI logging format has it (kubernetes design-proposals
// "CRI: Log Management", kuberuntime/logs).
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// criFile is a log file both streams of a process go to. A write that fails drops that piece, counts it, and the next is tried.
type criFile struct {
	path string
	log  *slog.Logger
	now  func() time.Time
	taps taps

	mu      sync.Mutex
	f       *os.File
	buf     []byte
	dropped uint64 // bytes of output that no disk would take
	failing bool
}

func newCRIFile(path string, log *slog.Logger) (*criFile, error) {
	l := &criFile{path: path, log: log, now: time.Now}
	return l, l.reopen()
}

// reopen is for log rotation. When it fails, the old file goes on being written.
func (l *criFile) reopen() error {
	f, err := openAppend(l.path)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		l.f.Close()
	}
	l.f = f
	return nil
}

// write takes a piece of output as it was read. A piece that ends within a line is written at once with the tag P, so that
// the death of a shim loses nothing it has read.
func (l *criFile) write(stream string, text []byte) {
	l.append(stream, text)
	l.taps.write(stream, text)
}

func (l *criFile) append(stream string, text []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = appendCRI(l.buf[:0], l.now().UTC(), stream, text)
	_, err := l.f.Write(l.buf)
	if cap(l.buf) > 4*maxLine {
		l.buf = nil
	}
	if err != nil {
		l.dropped += uint64(len(text))
		if !l.failing {
			l.log.Error("cannot write log; output is dropped until it works again", "path", l.path, "error", err)
		}
		l.failing = true
		return
	}
	if l.failing {
		l.log.Warn("log can be written again", "path", l.path, "droppedBytes", l.dropped)
		l.failing = false
	}
}

// appendCRI formats text as lines `TIME STREAM F|P TEXT`.
func appendCRI(b []byte, at time.Time, stream string, text []byte) []byte {
	var head [64]byte
	prefix := append(at.AppendFormat(head[:0], timeFormat), ' ')
	prefix = append(append(prefix, stream...), ' ')
	for len(text) > 0 {
		line, full := text, false
		if i := bytes.IndexByte(text[:min(len(text), maxLine+1)], '\n'); i >= 0 {
			line, text, full = text[:i], text[i+1:], true
		} else {
			line = text[:min(len(text), maxLine)]
			text = text[len(line):]
		}
		tag := "P "
		if full {
			tag = "F "
		}
		b = append(append(append(append(b, prefix...), tag...), line...), '\n')
	}
	return b
}

func (l *criFile) close() {
	l.taps.end()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		l.f.Close()
		l.f = nil
	}
}

// openAppend opens a file for output, and makes it and its directory when they are not there.
func openAppend(path string) (*os.File, error) {
	f, err := appendTo(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return appendTo(path)
}
