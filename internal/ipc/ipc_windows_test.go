package ipc_test

import (
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
