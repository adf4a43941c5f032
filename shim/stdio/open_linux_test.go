package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func config(t *testing.T, s Streams) Config {
	return Config{Streams: s, Dir: t.TempDir(), Namespace: "ns", ID: "c", Log: slog.New(slog.DiscardHandler)}
}

func mustOpen(t *testing.T, c Config) *Set {
	t.Helper()
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Finish)
	return s
}

// isOpen says whether this process has a descriptor of path.
func isOpen(path string) bool {
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if name, _ := os.Readlink(fd); name == path {
			return true
		}
	}
	return false
}

// A client that named a fifo and never opens it does not keep a container from starting for ever, nor when it removes the fifo.
func TestNoReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for !isOpen(path) {
			runtime.Gosched()
		}
		os.Remove(path)
		cancel()
	}()
	f, err := openWriter(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// The reader of a fifo leaves: the writer's writes go on working while there is room, and a new reader gets the rest.
func TestReaderLeaves(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	first, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, config(t, Streams{Stdout: path}))
	first.Close()
	if _, err := fmt.Fprintln(s.IO().Stdout, "nobody reads"); err != nil {
		t.Fatal(err)
	}
	second, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	s.Finish()
	if data, err := io.ReadAll(second); err != nil || string(data) != "nobody reads\n" {
		t.Fatalf("%q, %v", data, err)
	}
}

func TestCRILog(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	c := config(t, Streams{Stdout: "file://" + log + "?format=cri", Stderr: "file://" + log + "?format=cri"})
	s := mustOpen(t, c)
	process, ok := s.IO().Stdout.(*os.File) // what the container has; it outlives the shim
	if !ok {
		t.Fatal("the process does not get a file")
	}
	fmt.Fprintln(process, "one")
	// The shim dies here, as far as that can be had in one process: its pumps stop, its files stay as they are.
	for _, k := range s.sinks {
		k.finish()
	}
	fmt.Fprintln(process, "two")
	next := Attach(c, true)
	if err := os.Rename(log, log+".1"); err != nil { // rotation
		t.Fatal(err)
	}
	fmt.Fprint(s.IO().Stderr, "three")
	if err := next.Reopen(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(process, "four")
	next.Finish()
	var text []string
	for _, name := range []string{log + ".1", log} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			_, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
			text = append(text, rest)
		}
	}
	all := strings.Join(text, "|")
	for _, want := range []string{"stdout F one", "stdout F two", "stderr P three", "stdout F four"} {
		if strings.Count(all, want) != 1 {
			t.Errorf("no %q in %q", want, all)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(c.Dir, "*.fifo")); len(left) > 0 {
		t.Errorf("fifos left: %v", left)
	}
}

// A log that cannot be written does not stop the program.
func TestLogDiskFull(t *testing.T) {
	c := config(t, Streams{Stdout: "file:///dev/full?format=cri"})
	s := mustOpen(t, c)
	line := strings.Repeat("x", 1023) + "\n"
	for range 1024 { // far more than a fifo holds
		if _, err := io.WriteString(s.IO().Stdout, line); err != nil {
			t.Fatal(err)
		}
	}
	sink := s.sinks[0].(*criSink)
	s.Finish()
	if sink.dropped != 1<<20 {
		t.Fatalf("%d bytes dropped", sink.dropped)
	}
}

func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "logger")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLogger(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	done := filepath.Join(t.TempDir(), "done")
	if err := unix.Mkfifo(done, 0o600); err != nil {
		t.Fatal(err)
	}
	for scheme, ready := range map[string]string{"binary": "exec 5>&-", "binary-v2": "printf x >&5; exec 5>&-"} {
		logger := script(t, ready+`; echo "$CONTAINER_NAMESPACE/$CONTAINER_ID $1 $2" >`+out+`; cat <&3 >>`+out+`; cat <&4 >>`+out+`; echo >`+done)
		s := mustOpen(t, config(t, Streams{Stdout: scheme + "://" + logger + "?key=value"}))
		fmt.Fprintln(s.IO().Stdout, "to stdout")
		fmt.Fprintln(s.IO().Stderr, "to stderr")
		s.Finish()
		if _, err := os.ReadFile(done); err != nil { // waits for the logger
			t.Fatal(err)
		}
		data, _ := os.ReadFile(out)
		if string(data) != "ns/c key value\nto stdout\nto stderr\n" {
			t.Fatalf("%s: %q", scheme, data)
		}
	}
}

// A logger that dies takes nothing with it.
func TestLoggerDies(t *testing.T) {
	s := mustOpen(t, config(t, Streams{Stdout: "binary://" + script(t, "exec 5>&-; exit 1")}))
	line := strings.Repeat("x", 1023) + "\n"
	for range 256 {
		if _, err := io.WriteString(s.IO().Stdout, line); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLoggerNotReady(t *testing.T) {
	_, err := Open(t.Context(), config(t, Streams{Stdout: "binary-v2://" + script(t, "exit 0")}))
	if !errors.Is(err, errdefs.ErrUnavailable) {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), config(t, Streams{Stdout: "/nonexistent/fifo"})); !errors.Is(err, errdefs.ErrNotFound) {
		t.Fatal(err)
	}
}

// A client that writes and closes before the process is started has its input read to the end; one that has not come yet, or is
// still there, does not end it by going.
func TestHold(t *testing.T) {
	for _, c := range []struct {
		name        string
		come, leave bool
		held        bool
	}{{"never came", false, false, true}, {"is there", true, false, true}, {"came and went", true, true, false}} {
		path := filepath.Join(t.TempDir(), "in")
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		s := mustOpen(t, config(t, Streams{Stdin: path}))
		if c.come {
			client, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(client, "all")
			if c.leave {
				client.Close()
			}
			defer client.Close()
		}
		if held, err := s.Hold(); err != nil || held != c.held {
			t.Errorf("%s: held %v, %v", c.name, held, err)
		}
		if c.leave {
			if data, err := io.ReadAll(s.IO().Stdin); err != nil || string(data) != "all\n" {
				t.Errorf("%s: read %q, %v", c.name, data, err)
			}
		}
	}
}

// What is written to a terminal arrives whole and in order, however slow its reader; what nobody reads is dropped, and a reader that
// comes later gets what comes later.
func TestTerminalIsMoved(t *testing.T) {
	dir := t.TempDir()
	c := config(t, Streams{Stdin: filepath.Join(dir, "in"), Stdout: filepath.Join(dir, "out"), Terminal: true})
	for _, p := range []string{c.Stdin, c.Stdout} {
		if err := unix.Mkfifo(p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reader, err := openFd(c.Stdout, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, c)
	master, slave := openTerminal(t)
	copied := make(chan error, 2)
	go func() {
		_, err := io.Copy(s.IO().Stdout, master)
		copied <- err
	}()
	go func() {
		_, err := io.Copy(master, s.IO().Stdin)
		copied <- err
	}()

	typed, err := os.OpenFile(c.Stdin, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("0123456789abcde\n", 20000) // more than terminal and fifo hold together
	go func() { _, _ = io.WriteString(typed, text) }()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(slave, got); err != nil || string(got) != text {
		t.Errorf("the program read %d bytes of other text, %v", len(got), err)
	}
	go func() { _, _ = io.WriteString(slave, text) }()
	if _, err := io.ReadFull(reader, got); err != nil || string(got) != text {
		t.Errorf("the client read other text, %v", err)
	}

	reader.Close()
	if _, err := io.WriteString(slave, text); err != nil { // does not wait for anybody
		t.Fatal(err)
	}
	if reader, err = openFd(c.Stdout, unix.O_RDONLY|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if _, err := io.WriteString(slave, "back\n"); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for buf := make([]byte, 4096); !strings.HasSuffix(all.String(), "back\n"); {
		n, err := reader.Read(buf)
		all.Write(buf[:n])
		if err != nil {
			t.Fatalf("the client that came back read %q, %v", all.String(), err)
		}
	}

	s.CloseStdin()
	typed.Close()
	slave.Close()
	for range 2 {
		if err := <-copied; err != nil && !errors.Is(err, unix.EIO) {
			t.Errorf("copying ended with %v", err)
		}
	}
}

// openTerminal answers both sides of a new terminal that changes nothing of what passes through it.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := openFd("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK)
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	raw, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	cerr := raw.Control(func(fd uintptr) {
		if n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN); err == nil {
			err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0)
		}
	})
	if err = errors.Join(cerr, err); err == nil {
		slave, err = openFd(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close(); slave.Close() })
	mode, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	mode.Iflag, mode.Oflag, mode.Lflag = 0, 0, 0
	if err := unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, mode); err != nil {
		t.Fatal(err)
	}
	return master, slave
}
