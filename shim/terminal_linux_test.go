package shim_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/shim"
)

// screen is a client at a terminal: it types into one fifo and shows what comes out of the other.
type screen struct {
	t       *testing.T
	streams shim.Streams
	in      *os.File
	ended   chan struct{} // when the output has

	mu    sync.Mutex
	shown bytes.Buffer
}

func newScreen(t *testing.T) *screen {
	t.Helper()
	dir := t.TempDir()
	s := &screen{t: t, ended: make(chan struct{})}
	s.streams = shim.Streams{Stdin: filepath.Join(dir, "in"), Stdout: filepath.Join(dir, "out"), Terminal: true}
	for _, p := range []string{s.streams.Stdin, s.streams.Stdout} {
		if err := unix.Mkfifo(p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := os.OpenFile(s.streams.Stdout, os.O_RDONLY|unix.O_NONBLOCK, 0) // as containerd's clients do
	if err != nil {
		t.Fatal(err)
	}
	go s.show(out)
	return s
}

// show reads to the end as a client sees it: no writer is left, after there was one.
func (s *screen) show(out *os.File) {
	defer close(s.ended)
	defer out.Close()
	buf := make([]byte, 4096)
	for some := false; ; {
		n, err := out.Read(buf)
		some = some || n > 0
		s.mu.Lock()
		s.shown.Write(buf[:n])
		s.mu.Unlock()
		if err == io.EOF && !some { // nobody has opened it yet
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			return
		}
	}
}

// open is to be called once the task is created.
func (s *screen) open() {
	s.t.Helper()
	in, err := os.OpenFile(s.streams.Stdin, os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	s.in = in
	s.t.Cleanup(func() { in.Close() })
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.String()
}

func (s *screen) write(keys string) {
	s.t.Helper()
	if _, err := io.WriteString(s.in, keys); err != nil {
		s.t.Fatal(err)
	}
}

// await waits until what is shown contains want.
func (s *screen) await(want string) {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(s.text(), want); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("the terminal does not show %q but %q", want, s.text())
		}
	}
}

func (s *screen) awaitEnd() {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(20 * time.Second):
		s.t.Fatal("the output does not end")
	}
}

// runAt runs a container at a terminal.
func (w *world) runAt(s *screen, id, script string) {
	w.t.Helper()
	o := w.options(id, s.streams)
	spec := specOf(id, "sh", "-c", script)
	spec.Process.Terminal = true
	o.Spec = asJSON(w.t, spec)
	if _, err := w.m.Create(w.t.Context(), o); err != nil {
		w.t.Fatal(err)
	}
	s.open()
	if _, err := w.m.Start(w.t.Context(), "default", id, ""); err != nil {
		w.t.Fatal(err)
	}
}

// execAt executes a shell at a terminal.
func (w *world) execAt(s *screen, id, execID, script string) {
	w.t.Helper()
	process := asJSON(w.t, specs.Process{Terminal: true, Args: []string{"sh", "-c", script}, Cwd: "/", Env: []string{"PATH=/bin"}})
	err := w.m.Exec(w.t.Context(), "default", id, shim.ExecOptions{ExecID: execID, Spec: process, Streams: s.streams})
	if err != nil {
		w.t.Fatal(err)
	}
	s.open()
	if _, err := w.m.Start(w.t.Context(), "default", id, execID); err != nil {
		w.t.Fatal(err)
	}
}

// killShim kills the shim and answers when it is dead.
func (w *world) killShim() {
	w.t.Helper()
	pid := w.shimPid()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
	for syscall.Kill(pid, 0) == nil && !zombie(pid) {
		time.Sleep(time.Millisecond)
	}
}

const talk = `while read x; do echo "got $x"; stty size; done; echo bye; exit 3`

func TestTerminal(t *testing.T) {
	w := newWorld(t, shim.Config{})
	s := newScreen(t)
	w.runAt(s, "tty", "read line; stty size; echo got $line; exit 2")
	if err := w.m.ResizePty(t.Context(), "default", "tty", "", 91, 31); err != nil {
		t.Fatal(err)
	}
	s.write("hello\n")
	if x := w.wait("tty", ""); x.Status != 2 {
		t.Fatalf("exit %+v", x)
	}
	s.awaitEnd()
	if got := s.text(); !strings.Contains(got, "31 91\r\n") || !strings.Contains(got, "got hello\r\n") {
		t.Fatalf("the terminal showed %q", got)
	}
}

// What somebody at a terminal notices of the death of the shim is nothing.
func TestTerminalOutlivesShim(t *testing.T) {
	w := newWorld(t, shim.Config{})
	s, e := newScreen(t), newScreen(t)
	w.runAt(s, "tty", talk)
	w.execAt(e, "tty", "e", talk)
	for i := range 2 {
		for _, at := range []*screen{s, e} {
			at.write(fmt.Sprintf("before%d\n", i))
			at.await(fmt.Sprintf("got before%d", i))
		}
		w.killShim()
		for _, at := range []*screen{s, e} {
			at.write(fmt.Sprintf("after%d\n", i)) // there may be no shim yet
			at.await(fmt.Sprintf("got after%d", i))
		}
	}
	for i, at := range []*screen{s, e} {
		execID := []string{"", "e"}[i]
		if err := w.m.ResizePty(t.Context(), "default", "tty", execID, 91, 31); err != nil {
			t.Fatal(err)
		}
		at.write("size\n")
		at.await("31 91")
		if err := w.m.CloseIO(t.Context(), "default", "tty", execID); err != nil {
			t.Fatal(err)
		}
	}
	e.write("\x04")
	if x := w.wait("tty", "e"); x.Status != 3 {
		t.Errorf("exit of the executed shell: %+v", x)
	}
	e.awaitEnd()
	s.write("\x04")
	if x := w.wait("tty", ""); x.Status != 3 {
		t.Errorf("exit %+v", x)
	}
	s.awaitEnd()
	for _, at := range []*screen{s, e} {
		if !strings.HasSuffix(at.text(), "bye\r\n") || strings.Count(at.text(), "got ") != 5 {
			t.Errorf("the terminal showed %q", at.text())
		}
	}
	if _, err := w.m.Delete(t.Context(), "default", "tty", ""); err != nil {
		t.Fatal(err)
	}
	w.nothingLeft()
}

// A daemon that is started anew is given the terminals again by the shim that lives.
func TestTerminalOutlivesDaemonThenShim(t *testing.T) {
	w := newWorld(t, shim.Config{})
	s := newScreen(t)
	w.runAt(s, "tty", talk)
	if err := w.m.Close(); err != nil {
		t.Fatal(err)
	}
	w.open(shim.Config{})
	w.killShim()
	s.write("on\n")
	s.await("got on")
	s.write("\x04")
	if x := w.wait("tty", ""); x.Status != 3 {
		t.Errorf("exit %+v", x)
	}
	s.awaitEnd()
}

// A program that writes on while shims die loses not a byte, nor what it wrote last when it ends without one.
func TestTerminalOutputOverDeaths(t *testing.T) {
	w := newWorld(t, shim.Config{})
	s := newScreen(t)
	const lines = 30000
	w.runAt(s, "tty", fmt.Sprintf("read x; seq %d; exit 4", lines))
	s.write("go\n")
	for n := 1; n < lines; n += lines / 5 {
		s.await(fmt.Sprintf("\r\n%d\r\n", n))
		w.killShim()
	}
	if x := w.wait("tty", ""); x.Status != 4 {
		t.Errorf("exit %+v", x)
	}
	s.awaitEnd()
	var want strings.Builder
	want.WriteString("go\r\n")
	for i := range lines {
		fmt.Fprintf(&want, "%d\r\n", i+1)
	}
	if got := s.text(); got != want.String() {
		t.Errorf("%d bytes were shown of %d, the last: %q", len(got), want.Len(), got[max(0, len(got)-100):])
	}
}

// With both the daemon and the shim killed a terminal is lost: a program reads its end, and its own end is told as any other.
func TestTerminalDiesWithBoth(t *testing.T) {
	w := newWorld(t, shim.Config{})
	s := newScreen(t)
	w.runAt(s, "tty", talk)
	s.write("on\n")
	s.await("got on")
	if err := w.m.Close(); err != nil {
		t.Fatal(err)
	}
	w.killShim()
	w.open(shim.Config{})
	w.wait("tty", "")
	s.awaitEnd()
}
