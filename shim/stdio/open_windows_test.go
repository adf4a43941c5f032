package stdio

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Microsoft/go-winio"
	"github.com/containerd/errdefs"
)

// client listens at a pipe as clients do, and answers its name and the connection that is made to it.
func client(t *testing.T) (name string, accepted <-chan net.Conn) {
	t.Helper()
	name = `\\.\pipe\slipway-stdio-` + strings.ReplaceAll(filepath.Base(t.TempDir())+t.Name(), "/", "-") + fmt.Sprint(pipeNumber())
	l, err := winio.ListenPipe(name, &winio.PipeConfig{InputBufferSize: 1 << 16, OutputBufferSize: 1 << 16})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	conns := make(chan net.Conn, 4)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c
		}
	}()
	return name, conns
}

var pipes int

func pipeNumber() int { pipes++; return pipes }

func windowsConfig(t *testing.T, s Streams) Config {
	return Config{Streams: s, Dir: t.TempDir(), Namespace: "ns", ID: "c", Log: slog.New(slog.DiscardHandler)}
}

func TestClientPipes(t *testing.T) {
	in, inConn := client(t)
	out, outConn := client(t)
	s, err := Open(t.Context(), windowsConfig(t, Streams{Stdin: in, Stdout: out, Stderr: out}))
	if err != nil {
		t.Fatal(err)
	}
	c := <-inConn
	if _, err := io.WriteString(c, "question"); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if got, err := io.ReadAll(s.IO().Stdin); err != nil || string(got) != "question" {
		t.Errorf("standard input is %q, %v", got, err)
	}
	fmt.Fprint(s.IO().Stdout, "one ")
	fmt.Fprint(s.IO().Stderr, "two")
	// A successor dials the same pipe again.
	successor := Attach(windowsConfig(t, Streams{Stdin: in, Stdout: out, Terminal: true}), true)
	fmt.Fprint(successor.IO().Stdout, "three")
	s.Finish()
	successor.Finish()
	for _, want := range []string{"one two", "three"} {
		c := <-outConn
		if got, err := io.ReadAll(c); err != nil || string(got) != want {
			t.Errorf("the client reads %q, %v, want %q", got, err, want)
		}
		c.Close()
	}
}

// A client that goes away must not stop the process.
func TestClientGone(t *testing.T) {
	out, conn := client(t)
	s, err := Open(t.Context(), windowsConfig(t, Streams{Stdout: out}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Finish()
	(<-conn).Close()
	for range 3 {
		if n, err := s.IO().Stdout.Write(make([]byte, 100_000)); n != 100_000 || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
}

func TestFilesAndLogs(t *testing.T) {
	dir := t.TempDir()
	uri := "file:///" + filepath.ToSlash(filepath.Join(dir, "log")) + "?format=cri"
	s, err := Open(t.Context(), windowsConfig(t, Streams{Stdout: uri, Stderr: uri}))
	if err != nil {
		t.Fatal(err)
	}
	name, conn := client(t)
	if err := s.Tap("", name); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(s.IO().Stdout, "out")
	fmt.Fprintln(s.IO().Stderr, "err")
	s.Finish()
	if got, err := io.ReadAll(<-conn); err != nil || string(got) != "err\n" {
		t.Errorf("who reads along reads %q, %v", got, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil || !strings.Contains(string(text), " stdout F out\n") || !strings.Contains(string(text), " stderr F err\n") {
		t.Errorf("the log is %q, %v", text, err)
	}
	plain := filepath.Join(dir, "plain")
	if s, err = Open(t.Context(), windowsConfig(t, Streams{Stdout: plain})); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(s.IO().Stdout, "text")
	s.Finish()
	if text, err := os.ReadFile(plain); err != nil || string(text) != "text" {
		t.Errorf("the file is %q, %v", text, err)
	}
}

func TestRefusedStreams(t *testing.T) {
	for _, c := range []struct {
		s    Streams
		kind error
	}{
		{Streams{Stdout: `\\.\pipe\slipway-nobody-there`}, errdefs.ErrNotFound},
		{Streams{Stdin: `C:\windows\win.ini`}, errdefs.ErrInvalidArgument},
		{Streams{Stdout: `relative`}, errdefs.ErrInvalidArgument},
		{Streams{Stdout: `binary:///C:/logger.exe`, Stderr: `binary:///C:/logger.exe`}, errdefs.ErrNotImplemented},
	} {
		if s, err := Open(t.Context(), windowsConfig(t, c.s)); !errors.Is(err, c.kind) {
			t.Errorf("Open(%+v) = %v, %v, want %v", c.s, s, err, c.kind)
		}
	}
}

func TestParsePipes(t *testing.T) {
	for uri, path := range map[string]string{
		`\\.\pipe\a-b`: `\\.\pipe\a-b`, "npipe:////./pipe/a-b": `\\.\pipe\a-b`, "file:///C:/a/b": `C:\a\b`,
	} {
		if got, err := parse(uri); err != nil || got.path != path {
			t.Errorf("parse(%s) = %q, %v, want %q", uri, got.path, err, path)
		}
	}
}
