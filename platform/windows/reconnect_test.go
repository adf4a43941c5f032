package windows_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/windows/hcs/hcstest"
)

// TestReconnectRunning: what a program writes after its executor's death comes to the next one, which writes its input.
func TestReconnectRunning(t *testing.T) {
	h, root := &hcstest.Host{}, t.TempDir()
	e := newExecutor(t, root, h)
	s := platformSpec(t, "a", ociSpec("cat"))
	first, firstIn := io.Pipe()
	var out bytes.Buffer
	s.IO = platform.IO{Stdin: first, Stdout: io.Discard}
	c, err := e.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.Close()
	firstIn.Close()
	e = newExecutor(t, root, h)
	if c, err = e.Adopt(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := c.Init().(platform.Reconnecter).Reconnect(platform.IO{Stdin: strings.NewReader("again"), Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if exit, err := c.Init().Wait(t.Context()); err != nil || exit.Status != 0 {
		t.Errorf("Wait = %+v, %v", exit, err)
	}
	if out.String() != "again" {
		t.Errorf("the program wrote %q", out.String())
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestReconnect: a container whose executor died before its start gets the streams of the next.
func TestReconnect(t *testing.T) {
	h, root := &hcstest.Host{}, t.TempDir()
	e := newExecutor(t, root, h)
	if _, err := e.Create(t.Context(), platformSpec(t, "a", ociSpec("echo", "heard"))); err != nil {
		t.Fatal(err)
	}
	e.Close()
	e = newExecutor(t, root, h)
	c, err := e.Adopt(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	init := c.Init()
	if err := init.(platform.Reconnecter).Reconnect(platform.IO{Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if err := init.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if exit, err := init.Wait(t.Context()); err != nil || exit.Status != 0 || out.String() != "heard\n" {
		t.Errorf("it ended with %+v, %v and wrote %q", exit, err, out.String())
	}
	if err := init.(platform.Reconnecter).Reconnect(platform.IO{}); err != nil {
		t.Errorf("Reconnect after the end: %v", err)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
}
