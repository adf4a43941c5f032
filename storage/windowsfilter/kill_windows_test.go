package windowsfilter

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/storage"
)

// killDir names, to a process that is to be killed, the directories of the driver and of its notes.
const killDir, killNotes = "WINDOWSFILTER_KILL_DIR", "WINDOWSFILTER_KILL_NOTES"

func child() storage.Layer {
	return storage.Layer{ID: "9", Kind: storage.Active, Unpack: true, Parents: []string{"2", "1"}}
}

// TestKilledProcess is no test: it is what TestKilledWhileImporting kills.
func TestKilledProcess(t *testing.T) {
	if os.Getenv(killDir) == "" {
		t.Skip("this is a part of TestKilledWhileImporting")
	}
	host, err := NewHost(os.Getenv(killNotes))
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(os.Getenv(killDir), host)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Create(t.Context(), child()); err != nil {
		t.Fatal(err)
	}
	data := pack(t, dir("Files"), reg("Files/a", string(make([]byte, 1<<20))), reg("Files/b", string(make([]byte, 1<<20))))
	stop := readFunc(func([]byte) (int, error) {
		fmt.Println("half")
		select {} // until it is killed
	})
	_, err = d.Apply(t.Context(), child(), io.MultiReader(bytes.NewReader(data[:len(data)-1<<19]), stop))
	t.Error("it was not killed: ", err)
}

func TestKilledWhileImporting(t *testing.T) {
	d := realStack(t)
	notesDir := t.TempDir()
	before := all(t, d)
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledProcess$")
	cmd.Env = append(os.Environ(), killDir+"="+d.root.Dir(), killNotes+"="+notesDir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	noted := notes(t, notesDir)
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	if err != nil || line != "half\n" {
		t.Fatalf("the process says %q, %v", line, err)
	}
	if len(noted) != 1 || !exists(noted[0]) {
		t.Fatalf("noted %v, which is not there", noted)
	}

	host, err := NewHost(notesDir)
	if err != nil {
		t.Fatal(err)
	}
	if exists(noted[0]) {
		t.Errorf("%s is still there", noted[0])
	}
	if d, err = New(d.root.Dir(), host); err != nil {
		t.Fatal(err)
	}
	if ids, err := d.List(t.Context()); err != nil || !slices.Equal(ids, []string{"1", "2", "9"}) {
		t.Errorf("List: %v, %v", ids, err)
	}
	if err := d.Remove(t.Context(), "9"); err != nil {
		t.Fatal(err)
	}
	if after := all(t, d); !slices.Equal(before, after) {
		t.Errorf("left %v, was %v", after, before)
	}
}

// Where there is no CimFS the driver says so, and makes nothing.
func TestNoCimFS(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "x")
	if _, err := NewCim(dir, filepath.Join(t.TempDir(), "notes")); err == nil {
		t.Skip("this build has CimFS")
	} else if !errdefs.IsNotImplemented(err) || exists(dir) {
		t.Errorf("NewCim: %v", err)
	}
}
