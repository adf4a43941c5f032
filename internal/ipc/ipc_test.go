package ipc_test

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/slipwayd/slipway/internal/ipc"
)

func TestMeet(t *testing.T) {
	address := filepath.Join(t.TempDir(), "sock")
	if _, err := ipc.Dial(t.Context(), address); !ipc.Nobody(err) {
		t.Fatalf("Dial where nobody ever was: %v", err)
	}
	for range 2 { // the second time over what the first left
		l, err := ipc.Listen(address)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if c, err := l.Accept(); err == nil {
				_, _ = io.Copy(c, io.LimitReader(c, 5))
				c.Close()
			}
		}()
		c, err := ipc.Dial(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
			t.Errorf("read %q, %v", got, err)
		}
		c.Close()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(address); err != nil {
			t.Errorf("the file of the address does not stay: %v", err)
		}
		if _, err := ipc.Dial(t.Context(), address); !ipc.Nobody(err) {
			t.Errorf("Dial where nobody is any more: %v", err)
		}
	}
}

func TestBroken(t *testing.T) {
	address := filepath.Join(t.TempDir(), "sock")
	l, err := ipc.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan io.Closer)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	c, err := ipc.Dial(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	(<-accepted).Close()
	for err == nil {
		_, err = io.WriteString(c, "x")
	}
	if !ipc.Broken(err) {
		t.Errorf("writing to one who has gone: %v", err)
	}
}
