package stdio

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
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
		{Streams{Stderr: `binary:///C:/logger.exe`}, errdefs.ErrInvalidArgument},
	} {
		if s, err := Open(t.Context(), windowsConfig(t, c.s)); !errors.Is(err, c.kind) {
			t.Errorf("Open(%+v) = %v, %v, want %v", c.s, s, err, c.kind)
		}
	}
}

// TestMain lets this test be a logger program, by the role in its arguments.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "log" {
		if err := logTo(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// logTo writes a log of the name; as "dies" it dies with the first that it reads, and as "never" before it is ready.
func logTo(name string) error {
	if name == "never" {
		return errors.New("not ready")
	}
	stdout, stderr, ready, err := LoggerStreams()
	if err != nil {
		return err
	}
	if name == "dies" {
		ready.Close()
		_, err := stdout.Read(make([]byte, 1))
		return err
	}
	if id := os.Getenv("CONTAINER_NAMESPACE") + "/" + os.Getenv("CONTAINER_ID"); id != "ns/c" {
		return fmt.Errorf("the container is %s", id)
	}
	return LogCRI(name, stdout, stderr, ready, slog.Default())
}

func loggerURI(t *testing.T, scheme, name string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return scheme + ":///" + filepath.ToSlash(self) + "?log=" + url.QueryEscape(name)
}

func TestLoggerProgram(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	uri := loggerURI(t, "binary", log)
	line := strings.Repeat("x", 1023) + "\n"
	for range 2 { // the second goes on in the same file, as that of a new shim does
		s, err := Open(t.Context(), windowsConfig(t, Streams{Stdout: uri, Stderr: uri}))
		if err != nil {
			t.Fatal(err)
		}
		for range 200 { // more than pipes hold
			fmt.Fprint(s.IO().Stdout, line)
		}
		fmt.Fprintln(s.IO().Stderr, "last")
		ended := s.sinks[0].(*logger).ended
		s.Finish()
		<-ended
	}
	text, err := os.ReadFile(log)
	if err != nil || strings.Count(string(text), "stdout F xxx") != 400 || strings.Count(string(text), "stderr F last") != 2 {
		t.Errorf("the log has %d bytes and %d lines, %v", len(text), strings.Count(string(text), "\n"), err)
	}
}

func TestLoggerProgramDies(t *testing.T) {
	s, err := Open(t.Context(), windowsConfig(t, Streams{Stdout: loggerURI(t, "binary", "dies")}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Finish()
	fmt.Fprint(s.IO().Stdout, "x")
	<-s.sinks[0].(*logger).ended
	for range 3 {
		if n, err := s.IO().Stdout.Write(make([]byte, 100_000)); n != 100_000 || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	for _, uri := range []string{loggerURI(t, "binary", "never"), loggerURI(t, "binary-v2", "dies")} {
		if _, err := Open(t.Context(), windowsConfig(t, Streams{Stdout: uri})); !errors.Is(err, errdefs.ErrUnavailable) {
			t.Errorf("a logger that is never ready: %v", err)
		}
	}
	if _, err := Open(t.Context(), windowsConfig(t, Streams{Stdout: "binary:///C:/no/such/logger.exe"})); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a logger that is not there: %v", err)
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
