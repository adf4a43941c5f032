package e2ewine

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipwayd/slipway/client"
)

// TestService installs the daemon as a service, starts it, stops it while a container runs, and takes it out again.
func TestService(t *testing.T) {
	d := &daemon{TB: t, ctx: t.Context()}
	dir := t.TempDir()
	d.root, d.state, d.address = filepath.Join(dir, "root"), filepath.Join(dir, "state"), `\\.\pipe\slipway-e2e-service`
	name := "slipwayd-e2e"
	service := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
		defer cancel()
		args = append([]string{"service", "--name", name}, args...)
		out, err := exec.CommandContext(ctx, binary(t, "slipwayd"), args...).CombinedOutput()
		if err != nil {
			t.Fatalf("slipwayd %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	service("install", "--", "--config", d.config(), "--root", d.root, "--state", d.state, "--address", d.address)
	uninstalled := false
	t.Cleanup(func() {
		if !uninstalled {
			service("uninstall")
		}
	})
	if out := service("status"); !strings.Contains(out, "stopped") {
		t.Errorf("an installed service is %q", out)
	}
	service("start")
	if out := service("status"); !strings.Contains(out, "running") {
		t.Errorf("a started service is %q", out)
	}
	var err error
	if d.Client, err = client.New(d.address); err != nil {
		t.Fatal(err)
	}
	defer d.Client.Close()
	img := d.image(hello())
	if out := d.must("run", "--rm", img.Image.Name); !strings.Contains(out, "hello from the top") {
		t.Errorf("run = %q", out)
	}
	shim := d.shim()
	service("stop")
	if out := service("status"); !strings.Contains(out, "stopped") {
		t.Errorf("a stopped service is %q", out)
	}
	service("uninstall")
	uninstalled = true
	if shim != nil { // it ends by itself, as it has no container
		_, _ = shim.Wait()
	}
}

// TestServiceRefuses: what cannot be a service is said at once.
func TestServiceRefuses(t *testing.T) {
	for _, args := range [][]string{{"install", "--", "--no-such-flag"}, {"install", "--", "word"}, {"start", "--name", "slipwayd-e2e-none"}} {
		out, err := exec.Command(binary(t, "slipwayd"), append([]string{"service"}, args...)...).CombinedOutput()
		if err == nil {
			t.Errorf("slipwayd service %v = %s", args, out)
		}
	}
}
