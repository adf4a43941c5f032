package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// slipway is the project's own command line against one daemon.
func (d *daemon) slipway(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, []string{"SLIPWAY_ADDRESS=" + d.address}, filepath.Join(binaries, "slipway"), args...)
}

func (d *daemon) trySlipway(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return try(t, []string{"SLIPWAY_ADDRESS=" + d.address}, filepath.Join(binaries, "slipway"), args...)
}

func TestSlipwayRunsContainers(t *testing.T) {
	d := startDaemon(t)
	d.slipway(t, "pull", busybox)
	if out := d.slipway(t, "run", "--rm", busybox, "echo", "hello"); out != "hello\n" {
		t.Errorf("echo hello wrote %q", out)
	}
	if _, err := d.trySlipway(t, "run", "--rm", busybox, "sh", "-c", "exit 7"); exitCode(err) != 7 {
		t.Errorf("exit 7: %v", err)
	}
	id := name(t)
	d.slipway(t, "run", "-d", "--name", id, busybox, "sh", "-c", "echo logged; trap 'exit 0' TERM; while true; do sleep 0.1; done")
	eventually(t, "the log", func() bool { return d.slipway(t, "logs", id) == "logged\n" })
	if out := d.slipway(t, "ps"); !strings.Contains(out, id) {
		t.Errorf("the container is not among those that run:\n%s", out)
	}
	if out := d.slipway(t, "exec", id, "echo", "inside"); out != "inside\n" {
		t.Errorf("exec wrote %q", out)
	}
	d.slipway(t, "stop", id)
	d.slipway(t, "rm", id)

	// An image by its id.
	_, digest, _ := strings.Cut(strings.TrimSpace(d.slipway(t, "pull", "--quiet", busybox)), "@")
	if out := d.slipway(t, "run", "--rm", digest, "echo", "hi"); out != "hi\n" {
		t.Errorf("echo hi in image %s wrote %q", digest, out)
	}

	// In the background and gone with its end, also with what its client left behind.
	brief := name(t)
	d.slipway(t, "run", "-d", "--rm", "--name", brief, busybox, "sleep", "0.1")
	eventually(t, "removal of the container", func() bool { return !strings.Contains(d.slipway(t, "ps", "-a"), brief) })
	eventually(t, "removal of its log", func() bool { return len(pathsWith(filepath.Join(d.root, "logs"), brief)) == 0 })
	d.checkNoContainers(t, id, brief)
	d.slipway(t, "rmi", busybox)
	d.checkEmpty(t, id, brief)
	if left := pathsWith(filepath.Join(d.root, "logs"), "e2e-"); len(left) > 0 {
		t.Errorf("logs are left: %q", left)
	}
}

func TestSlipwayFailsClearly(t *testing.T) {
	d := startDaemon(t)
	for _, tt := range []struct {
		args []string
		says string
	}{
		{[]string{"run", hub.Host() + "/no/such:image", "true"}, "not found"},
		{[]string{"exec", "none", "true"}, "none"},
		{[]string{"rmi", "none"}, "none"},
		{[]string{"pull", "127.0.0.1:1/x"}, "refused"},
		{[]string{"pull", "bad//name"}, "bad//name"},
	} {
		_, err := d.trySlipway(t, tt.args...)
		if exitCode(err) <= 0 || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(tt.says)) {
			t.Errorf("%q: %v", tt.args, err)
		} else if n := strings.Count(err.Error(), "slipway: "); n != 1 || strings.Contains(err.Error(), "is slipwayd running") {
			t.Errorf("%q does not say in one line what is wrong: %v", tt.args, err)
		}
	}
}

func TestSlipwayTellsWhyAProgramDidNotStart(t *testing.T) {
	d := startDaemon(t)
	d.slipway(t, "pull", busybox)
	id := name(t)
	d.slipway(t, "run", "-d", "--name", id, busybox, "sleep", "1000")
	for _, tt := range []struct {
		program string
		code    int
		says    string
	}{
		{"nope", 127, "executable file not found"},
		{"/nope", 127, "no such file"},
		{"/etc", 126, "is a directory"},
		{"/etc/passwd", 126, "permission denied"},
	} {
		for _, args := range [][]string{{"run", "--rm", busybox, tt.program}, {"run", "-d", busybox, tt.program}, {"exec", id, tt.program}} {
			_, err := d.trySlipway(t, args...)
			if exitCode(err) != tt.code || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "default+") {
				t.Errorf("%q: want exit code %d and %q, got %v", args, tt.code, tt.says, err)
			}
		}
	}
	if _, err := d.trySlipway(t, "rmi", busybox); err == nil || !strings.Contains(err.Error(), id) {
		t.Errorf("an image that %s uses is removed: %v", id, err)
	}
	d.slipway(t, "rm", "-f", id)
	d.slipway(t, "rm", "-f", id) // not there, which is what was asked for
	d.checkNoContainers(t, id)
}

// Who looks at a container that the kernel killed for memory is told so, at its end and later.
func TestSlipwayTellsOfMemory(t *testing.T) {
	d := startDaemon(t)
	d.slipway(t, "pull", busybox)
	id := name(t)
	_, err := d.trySlipway(t, "run", "--name", id, "--memory", "24m", busybox, "sh", "-c", "x=x; while :; do x=$x$x; done")
	if exitCode(err) != 137 || !strings.Contains(err.Error(), "out of memory (limit 24M); raise --memory") {
		t.Errorf("run: %v", err)
	}
	if out := d.slipway(t, "ps", "-a"); !strings.Contains(out, "Exited (137)") || !strings.Contains(out, "out of memory") {
		t.Errorf("ps:\n%s", out)
	}
	if out := d.slipway(t, "inspect", id); !strings.Contains(out, `"oomKilled": true`) {
		t.Errorf("inspect:\n%s", out)
	}
	d.slipway(t, "rm", id)
	_, err = d.trySlipway(t, "run", "--rm", "--memory", "24m", busybox, "sh", "-c", "(sh -c 'kill -9 $$'); exit $?")
	if exitCode(err) != 137 || strings.Contains(err.Error(), "memory") {
		t.Errorf("one that killed itself: %v", err)
	}
}

// How much of a lazily pulled image is here can be seen, and waited for.
func TestSlipwayShowsLazyLayers(t *testing.T) {
	d := startLazy(t)
	img := pushLazy(t, hub, 7001, 1<<10)
	if _, err := d.trySlipway(t, "run", "--lazy", "maybe", img.ref, "true"); exitCode(err) != 125 {
		t.Errorf("--lazy maybe: %v", err)
	}
	d.slipway(t, "pull", "--lazy", "always", img.ref)
	if out := d.slipway(t, "images", "--lazy"); !strings.Contains(out, "2 lazy") || !strings.Contains(out, "0B of ") {
		t.Errorf("images before a start:\n%s", out)
	}
	d.slipway(t, "run", "--rm", img.ref, "cat", "/data/file20")
	if out := d.slipway(t, "images", "--lazy"); strings.Contains(out, "0B of ") || !strings.Contains(out, "%") {
		t.Errorf("images after a start:\n%s", out)
	}
	if out := d.slipway(t, "inspect", img.ref); strings.Count(out, `"mode": "lazy"`) != 2 || !strings.Contains(out, `"demand": `) {
		t.Errorf("inspect:\n%s", out)
	}
	id := name(t)
	d.slipway(t, "run", "-d", "--name", id, img.ref, "sleep", "1000")
	if out := d.slipway(t, "inspect", id); strings.Count(out, `"mode": "lazy"`) != 2 {
		t.Errorf("inspect of a container:\n%s", out)
	}
	d.slipway(t, "rm", "-f", id)
	d.slipway(t, "image", "wait", img.ref)
	if out := d.slipway(t, "images", "--lazy"); !strings.Contains(out, "2 arrived") {
		t.Errorf("images when all is here:\n%s", out)
	}
}

// A client that stays with a container sees its end, however often the daemon restarts meanwhile.
func TestSlipwayWaitsForTheDaemon(t *testing.T) {
	d := startDaemon(t)
	d.slipway(t, "pull", busybox)
	id := name(t)
	gate := filepath.Join(t.TempDir(), "gate")
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	type end struct {
		out string
		err error
	}
	ended := make(chan end, 1)
	go func() {
		out, err := d.trySlipway(t, "run", "--rm", "--name", id, "-v", filepath.Dir(gate)+":/gate", busybox,
			"sh", "-c", "echo begun; while [ -e /gate/gate ]; do sleep 0.05; done; echo done; exit 9")
		ended <- end{out, err}
	}()
	eventually(t, "the container", func() bool { return strings.Contains(d.slipway(t, "ps", "-q"), id) })
	d.kill()
	d.start()
	d.stop()
	if err := os.Remove(gate); err != nil {
		t.Fatal(err)
	}
	d.start()
	if e := <-ended; exitCode(e.err) != 9 || e.out != "begun\ndone\n" {
		t.Errorf("got %q, %v", e.out, e.err)
	}
	d.checkNoContainers(t, id)
}

func TestDaemonsSideBySide(t *testing.T) {
	one, two := startDaemon(t), startDaemon(t)
	id := name(t)
	for _, d := range []*daemon{one, two} {
		d.slipway(t, "pull", busybox)
		d.slipway(t, "run", "-d", "--name", id, busybox, "sleep", "1000")
	}
	one.slipway(t, "rm", "-f", id)
	if out := two.slipway(t, "exec", id, "echo", "alive"); out != "alive\n" {
		t.Errorf("the other daemon's container of that name says %q", out)
	}
	two.slipway(t, "rm", "-f", id)
	two.checkNoContainers(t, id)
}
