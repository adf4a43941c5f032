package fdstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func listen(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Listen(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// counted is how many files s thinks it has; a number puts that in its place.
func counted(s *Store, instead ...int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range instead {
		s.count = n
	}
	return s.count
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// What is kept is the same open file, after whoever handed it in has closed it, and any number of takers get it.
func TestKeepAndTake(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s := listen(t, path)
	c := Client{Path: path}
	r, w := pipe(t)
	if err := c.Keep("ns/a", Files{"stdin": r, "stdout": w}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "hello"); err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	for _, want := range []string{"he", "ll"} {
		files, err := c.Take("ns/a")
		if err != nil || len(files) != 2 {
			t.Fatalf("Take = %v, %v", files, err)
		}
		got := make([]byte, 2)
		if _, err := io.ReadFull(files["stdin"], got); err != nil || string(got) != want {
			t.Errorf("read %q, %v; want %q", got, err, want)
		}
		files.Close()
	}
	if _, err := c.Take("ns/b"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Take of nothing: %v", err)
	}
	s.Drop("ns") // does not close what is not below it, and takes what is
	if _, err := c.Take("ns/a"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Take after Drop: %v", err)
	}
	if n := counted(s); n != 0 {
		t.Errorf("%d files are kept at the end", n)
	}
}

// What is dropped or replaced is closed: a reader of the other end sees the end.
func TestDropCloses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s := listen(t, path)
	c := Client{Path: path}
	for name, end := range map[string]func(){
		"drop":       func() { s.Drop("a") },
		"drop above": func() { s.Drop("a") },
		"replace": func() {
			_, other := pipe(t)
			if err := c.Keep("a", Files{"stdout": other}); err != nil {
				t.Error(err)
			}
		},
	} {
		r, w := pipe(t)
		key := "a"
		if name == "drop above" {
			key = "a/exec"
		}
		if err := c.Keep(key, Files{"stdout": w}); err != nil {
			t.Fatal(err)
		}
		w.Close()
		end()
		if n, err := r.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: read %d, %v; want the end", name, n, err)
		}
	}
	r, w := pipe(t)
	if err := c.Keep("a", Files{"stdout": w}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	s.Close()
	if n, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("close: read %d, %v; want the end", n, err)
	}
	if err := c.Keep("a", Files{"stdin": r}); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("Keep without a Store: %v", err)
	}
	listen(t, path) // in the place of a socket that a dead daemon left
	if err := c.Keep("a", Files{"stdin": r}); err != nil {
		t.Error(err)
	}
}

func TestBounds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s := listen(t, path)
	c := Client{Path: path}
	r, w := pipe(t)
	counted(s, maxFiles-1)
	if err := c.Keep("a", Files{"stdin": r, "stdout": w}); !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("Keep beyond the bound: %v", err)
	}
	if err := c.Keep("a", Files{"stdin": r}); err != nil {
		t.Errorf("Keep up to the bound: %v", err)
	}
	if err := c.Keep("a", Files{"stdout": w}); err != nil {
		t.Errorf("Keep in the place of another: %v", err)
	}
	s.Drop("a")
	if n := counted(s); n != maxFiles-1 {
		t.Errorf("%d files are counted after the drop", n)
	}
	counted(s, 0)
	many := Files{}
	for i := range perName + 1 {
		many[fmt.Sprint(i)] = r
	}
	if err := c.Keep("a", many); err == nil {
		t.Error("more files than may be under one name were kept")
	}
}

// A peer that breaks the protocol leaves no descriptor behind and disturbs nobody.
func TestBadPackets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s := listen(t, path)
	r, w := pipe(t)
	raw, err := w.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"", "{", "[]", `{"op":"keep","name":"a"}`, `{"op":"keep","name":"a","files":["x","y"]}`, `{"op":"keep","name":"","files":["x"]}`,
		`{"op":"what","files":["x"]}`, `{"op":"take","name":"a","files":["x"]}`, `{"op":"keep","files":"x"}`,
	} {
		conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) {
			if _, _, err := conn.WriteMsgUnix([]byte(text), unix.UnixRights(int(fd)), nil); err != nil {
				t.Errorf("%q: %v", text, err)
			}
		})
		answer := make([]byte, maxText)
		n, _ := conn.Read(answer)
		var m message
		if err := json.Unmarshal(answer[:n], &m); err != nil || m.err() == nil {
			t.Errorf("%q is answered by %q", text, answer[:n])
		}
		conn.Close()
	}
	w.Close()
	if n, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read %d, %v: a descriptor is open still", n, err)
	}
	if n := counted(s); n != 0 {
		t.Errorf("%d files are counted", n)
	}
	if err := (Client{Path: path}).Keep("a", Files{"stdin": r}); err != nil {
		t.Error(err)
	}
}
