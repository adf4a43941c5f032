package ipc_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipwayd/slipway/internal/ipc"
)

// Nobody takes the name of a pipe whose owner lives, and no file leads to anything but a pipe.
func TestPipes(t *testing.T) {
	address := `\\.\pipe\slipway-test-` + filepath.Base(t.TempDir())
	l, err := ipc.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if second, err := ipc.Listen(address); err == nil {
		second.Close()
		t.Error("a pipe has two owners")
	}
	for _, text := range []string{"", `C:\windows\system.ini`, `\\.\pipe\`, `\\.\pipe\` + strings.Repeat("x", 300)} {
		file := filepath.Join(t.TempDir(), "sock")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := ipc.Dial(t.Context(), file); err == nil || ipc.Nobody(err) {
			t.Errorf("Dial by a file with %.20q = %v, %v", text, c, err)
		}
	}
}

// A client that reads which pipe it is does not keep a new owner from saying that it is another, nor the other way round: the successor of a shim that
// died says so while clients of the old one look.
func TestPipeReplaced(t *testing.T) {
	address := filepath.Join(t.TempDir(), "sock")
	owner := func() net.Listener {
		t.Helper()
		l, err := ipc.Listen(address)
		if err != nil {
			t.Fatal(err)
		}
		go func() { // until the next one comes
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
		return l
	}
	first := owner()
	stop, looking := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				looking <- nil
				return
			default:
			}
			if c, err := ipc.Dial(t.Context(), address); err == nil {
				c.Close()
			} else if !ipc.Nobody(err) {
				looking <- err
				return
			}
		}
	}()
	for range 50 {
		next := owner()
		first.Close()
		first = next
	}
	close(stop)
	defer first.Close()
	if err := <-looking; err != nil {
		t.Error(err)
	}
}
