package oneshot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Microsoft/go-winio"
	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/ipc"
)

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := winio.DialPipeContext(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// write writes all and closes, as a shim does when a process has ended.
func write(t *testing.T, path, text string) {
	t.Helper()
	c := dial(t, path)
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOutput(t *testing.T) {
	path := Name("", "out")
	o, err := NewOutput(path, 1000)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, strings.Repeat("x", 200<<10)) // far more than the pipe holds
	got, err := o.Drain()
	if err != nil || len(got) != 1000 {
		t.Errorf("drained %d bytes, %v; want 1000", len(got), err)
	}
	if c, err := winio.DialPipe(path, nil); err == nil {
		c.Close()
		t.Error("somebody still reads the pipe")
	}
}

// TestOutputOfSuccessors: what a second shim writes follows.
func TestOutputOfSuccessors(t *testing.T) {
	path, to := Name("", "out"), &bytes.Buffer{}
	o, err := NewCopy(path, to)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, "one ")
	write(t, path, "two")
	if _, err := o.Drain(); err != nil || to.String() != "one two" && to.String() != "one " { // the second may come too late to be accepted
		t.Errorf("copied %q, %v", to, err)
	}
}

func TestOutputClosed(t *testing.T) {
	path := Name("", "out")
	o, err := NewOutput(path, 1000)
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, path)
	o.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the writer's end is open")
	}
}

func TestTap(t *testing.T) {
	path, to := Name("", "tap"), &bytes.Buffer{}
	tap, err := NewTap(path, to)
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	write(t, path, "read along")
	if err := tap.Copy(); err != nil || to.String() != "read along" {
		t.Errorf("copied %q, %v", to, err)
	}
}

func TestInput(t *testing.T) {
	path := Name("", "in")
	in, err := NewInput(path)
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, path)
	if err := in.Copy(strings.NewReader("question")); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if got, err := io.ReadAll(reader{c}); err != nil || string(got) != "question" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestInlet: clients find who reads by a file, and leave it open when they go.
func TestInlet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stdin")
	if _, err := OpenInput(t.Context(), path); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("nobody reads: %v", err)
	}
	l, err := ipc.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, text := range []string{"one", "two"} {
		got := make(chan string, 1)
		go func() {
			c, err := l.Accept()
			if err != nil {
				got <- err.Error()
				return
			}
			defer c.Close()
			if _, err := c.Write([]byte{0}); err != nil {
				got <- err.Error()
				return
			}
			all, err := io.ReadAll(reader{c})
			got <- string(all) + fmt.Sprint(err)
		}()
		in, err := OpenInput(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if err := in.Copy(strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		in.Close()
		if g := <-got; g != text+"<nil>" {
			t.Errorf("got %q, want %q", g, text)
		}
	}
}
