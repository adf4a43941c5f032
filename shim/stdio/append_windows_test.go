package stdio

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRotatedLog: a log can be renamed while it is written, and a new one begins when it is asked for.
func TestRotatedLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pod", "0.log")
	uri := "file:///" + filepath.ToSlash(path) + "?format=cri"
	s, err := Open(t.Context(), windowsConfig(t, Streams{Stdout: uri, Stderr: uri}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Finish()
	for _, step := range []struct{ line, now string }{{"one\n", path}, {"two\n", path + ".1"}, {"three\n", path}} {
		switch step.line {
		case "two\n":
			if err := os.Rename(path, path+".1"); err != nil {
				t.Fatal(err)
			}
		case "three\n":
			if err := s.Reopen(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.IO().Stdout.Write([]byte(step.line)); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(step.now); err != nil || !strings.HasSuffix(string(text), " stdout F "+step.line) {
			t.Errorf("%q is not the end of %q, %v", step.line, text, err)
		}
	}
}

// TestLogNowhere: a container without a log has one that keeps nothing, so that its output can be read along.
func TestLogNowhere(t *testing.T) {
	s, err := Open(t.Context(), windowsConfig(t, Streams{Stdout: "file:////./NUL?format=cri"}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Finish()
	out, conns := client(t)
	if err := s.Tap(out, ""); err != nil {
		t.Fatal(err)
	}
	c := <-conns
	defer c.Close()
	if _, err := s.IO().Stdout.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 5)
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("read along %q, %v", buf[:n], err)
	}
}
