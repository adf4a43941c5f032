package e2ewine

import (
	"os"
	"strings"
	"testing"

	"github.com/slipwayd/slipway/testsuite/registry"
)

// ctr runs containerd's own command line; the test is skipped where there is none beside the programs.
func (d *daemon) ctr(args ...string) string {
	d.Helper()
	program := binary(d, "ctr")
	if _, err := os.Stat(program); err != nil {
		d.Skip("there is no ctr.exe beside the programs")
	}
	out, errs, code := d.program(program, "", append([]string{"--address", d.address}, args...)...)
	if code != 0 {
		d.Fatalf("ctr %s: exit code %d: %s%s", strings.Join(args, " "), code, out, errs)
	}
	return out + errs
}

// TestCtr: containerd's own command line works with slipwayd.exe.
func TestCtr(t *testing.T) {
	d := newDaemon(t)
	r := registry.Start(t)
	r.Push("windows/test:1", hello())
	image := r.Host() + "/windows/test:1"
	ctr := d.ctr
	ctr("images", "pull", "--plain-http", image)
	if out := ctr("images", "list", "-q"); !strings.Contains(out, image) {
		t.Errorf("images list = %q", out)
	}
	if out := ctr("run", "--rm", image, "first"); !strings.Contains(out, "hello from the top") {
		t.Errorf("run = %q", out)
	}
	ctr("run", "--detach", image, "second", "cmd", "/c", "ping -n 1000 127.0.0.1 >nul")
	if out := ctr("tasks", "list"); !strings.Contains(out, "second") || !strings.Contains(out, "RUNNING") {
		t.Errorf("tasks list = %q", out)
	}
	if out := ctr("tasks", "exec", "--exec-id", "e", "second", "cmd", "/c", "echo", "inside"); !strings.Contains(out, "inside") {
		t.Errorf("tasks exec = %q", out)
	}
	ctr("tasks", "kill", "-s", "SIGKILL", "second")
	d.eventually("the killed task does not stop", func() error { return wants(ctr("tasks", "list"), "STOPPED") })
	ctr("tasks", "delete", "second")
	ctr("containers", "delete", "second")
	ctr("images", "delete", image)
}
