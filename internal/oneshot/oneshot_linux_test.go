package oneshot

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOutputKeepsWhatFitsAndNeverBlocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	o, err := NewOutput(path, 1000)
	if err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<20)); err != nil { // far more than a pipe holds
		t.Fatal(err)
	}
	got, err := o.Drain()
	if err != nil || len(got) != 1000 {
		t.Errorf("drained %d bytes, %v; want 1000", len(got), err)
	}
	if _, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
		t.Error("somebody still reads the fifo")
	}
}

func TestOutputOfWriterThatStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	o, err := NewOutput(path, 1000)
	if err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	if got, err := o.Drain(); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestKillTree(t *testing.T) {
	cmd := exec.Command("sh", "-c", "sleep 1000 & (sleep 1001 & sleep 1002) & echo ready; wait")
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if err := KillTree(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	// The pipe ends when the last of them is dead.
	if n, _ := out.Read(make([]byte, 10)); n != 0 {
		t.Error("a process wrote after the kill")
	}
	_ = cmd.Wait()
}
