package stdio

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// tapped opens a reader of one stream of a process as clients do: it has the fifo open before the shim does, and sees its end afterwards.
func tapped(t *testing.T, s *Set, stderr bool) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tap")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := openFd(path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	if stderr {
		err = s.Tap("", path)
	} else {
		err = s.Tap(path, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTap(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	uri := "file://" + log + "?format=cri"
	s := mustOpen(t, config(t, Streams{Stdout: uri, Stderr: uri}))
	out, second, errs := tapped(t, s, false), tapped(t, s, false), tapped(t, s, true)
	gone := tapped(t, s, false)
	gone.Close()
	for n := range 3 { // as a process does
		fmt.Fprintf(s.IO().Stdout, "out %d\n", n)
		fmt.Fprintf(s.IO().Stderr, "err %d\n", n)
	}
	s.Finish()
	for _, c := range []struct {
		f    *os.File
		want string
	}{{out, "out 0\nout 1\nout 2\n"}, {second, "out 0\nout 1\nout 2\n"}, {errs, "err 0\nerr 1\nerr 2\n"}} {
		if got, err := io.ReadAll(c.f); err != nil || string(got) != c.want {
			t.Errorf("read %q, %v; want %q", got, err, c.want)
		}
	}
	data, err := os.ReadFile(log)
	if err != nil || strings.Count(string(data), "\n") != 6 {
		t.Errorf("the log is %q, %v", data, err)
	}
	if err := s.Tap(os.DevNull, ""); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("after the end: %v", err)
	}
}

// Who reads along gets all of it, in order, however much that is.
func TestTapOfMuch(t *testing.T) {
	uri := "file://" + os.DevNull + "?format=cri"
	s := mustOpen(t, config(t, Streams{Stdout: uri, Stderr: uri}))
	r := tapped(t, s, false)
	text := bytes.Repeat([]byte("0123456789abcdef\n"), 1<<16) // more than a fifo holds
	got := make(chan []byte, 1)
	go func() {
		all, _ := io.ReadAll(r)
		got <- all
	}()
	if _, err := s.IO().Stdout.Write(text); err != nil {
		t.Fatal(err)
	}
	s.Finish()
	if all := <-got; !bytes.Equal(all, text) {
		t.Errorf("%d bytes came of %d, or others", len(all), len(text))
	}
}

func TestTapOfWhatIsNoLog(t *testing.T) {
	s := mustOpen(t, config(t, Streams{Stdout: "file://" + filepath.Join(t.TempDir(), "plain")}))
	if err := s.Tap(os.DevNull, ""); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("a file that is no log: %v", err)
	}
}
