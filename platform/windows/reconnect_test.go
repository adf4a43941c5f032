package windows_test

import (
	"bytes"
	"testing"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/windows/hcs/hcstest"
)

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
