package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// dockerHost is a private dockerd whose containers are a daemon's.
type dockerHost struct {
	program string // its command line
	host    string
	daemon  *exec.Cmd
}

// findDocker is where ci/setup unpacked Debian's package, or what is on PATH.
func findDocker(t *testing.T) (dockerd, program string) {
	t.Helper()
	unpacked, err := filepath.Abs("../../.cache/docker")
	if err != nil {
		t.Fatal(err)
	}
	dockerd, program = filepath.Join(unpacked, "usr/sbin/dockerd"), filepath.Join(unpacked, "usr/bin/docker")
	if _, err := os.Stat(dockerd); err == nil {
		return dockerd, program
	}
	if dockerd, err = exec.LookPath("dockerd"); err == nil {
		program, err = exec.LookPath("docker")
	}
	if err != nil {
		t.Skip("needs dockerd and docker, which ci/setup fetches: ", err)
	}
	return dockerd, program
}

// startDocker starts dockerd over d. It makes no network and touches no packet filter.
func startDocker(t *testing.T, d *daemon) *dockerHost {
	t.Helper()
	dockerd, program := findDocker(t)
	dir, err := os.MkdirTemp("/var/tmp", "slipway-docker-")
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	log, err := os.Create(in("log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if err := os.WriteFile(in("config"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	k := &dockerHost{program: program, host: "unix://" + in("socket")}
	k.daemon = exec.Command(dockerd, "--containerd", d.address, "--data-root", in("root"), "--exec-root", in("exec"), "--pidfile", in("pid"),
		"--host", k.host, "--config-file", in("config"), "--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false")
	k.daemon.Stdout, k.daemon.Stderr = log, log
	if err := k.daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		k.stop()
		if t.Failed() {
			text, _ := os.ReadFile(in("log"))
			t.Logf("end of dockerd's log:\n%s", text[max(0, len(text)-6000):])
		}
		for _, m := range (&daemon{dir: dir}).mounts() {
			_ = syscall.Unmount(m, syscall.MNT_DETACH)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("cannot remove dockerd's directory: %v", err)
		}
	})
	eventually(t, "dockerd to serve", func() bool {
		_, err := k.try(t, "version")
		return err == nil
	})
	return k
}

// stop ends dockerd as an administrator does, and with it the containers that run.
func (k *dockerHost) stop() {
	_ = k.daemon.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	_ = k.daemon.Wait()                          // how it ended is not what is tested
}

func (k *dockerHost) try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return try(t, nil, k.program, append([]string{"--host", k.host}, args...)...)
}

func (k *dockerHost) run(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, nil, k.program, append([]string{"--host", k.host}, args...)...)
}

func TestDockerRunsContainers(t *testing.T) {
	d := startDaemon(t)
	k := startDocker(t, d)
	k.run(t, "pull", "--quiet", busybox)
	for _, tt := range []struct {
		args string
		code int
		out  string
	}{
		{"echo hello", 0, "hello\n"},
		{"sh -c exit${IFS}7", 7, ""},
		{"nope", 127, ""},
		{"/nope", 127, ""},
		{"/etc", 126, ""},
		{"/etc/passwd", 126, ""},
	} {
		args := append([]string{"run", "--rm", "--network", "none", busybox}, strings.Fields(tt.args)...)
		if out, err := k.try(t, args...); exitCode(err) != tt.code || out != tt.out {
			t.Errorf("%s: wrote %q, %v; want %q and exit code %d", tt.args, out, err, tt.out, tt.code)
		}
	}
	id := strings.TrimSpace(k.run(t, "run", "-d", "--network", "none", busybox, "sh", "-c", "trap 'exit 3' TERM; echo begun; while :; do sleep 0.1; done"))
	eventually(t, "the log", func() bool { return k.run(t, "logs", id) == "begun\n" })
	if out := k.run(t, "exec", id, "sh", "-c", "echo inside >/mark; cat /mark"); out != "inside\n" {
		t.Errorf("exec wrote %q", out)
	}
	for program, code := range map[string]int{"nope": 126, "/etc/passwd": 126} { // dockerd says 126 of all that did not start
		if _, err := k.try(t, "exec", id, program); exitCode(err) != code {
			t.Errorf("exec of %s: %v", program, err)
		}
	}
	k.run(t, "pause", id)
	if out := k.run(t, "ps", "--format", "{{.Status}}"); !strings.Contains(out, "(Paused)") {
		t.Errorf("status of a paused one: %q", out)
	}
	k.run(t, "unpause", id)
	if out := k.run(t, "stats", "--no-stream", "--format", "{{.PIDs}}", id); strings.TrimSpace(out) == "0" {
		t.Error("stats count no process")
	}
	k.run(t, "commit", id, "committed:1")
	if out := k.run(t, "run", "--rm", "--network", "none", "committed:1", "cat", "/mark"); out != "inside\n" {
		t.Errorf("the committed image's file holds %q", out)
	}
	k.run(t, "stop", "--time", "30", id)
	if out := k.run(t, "inspect", "--format", "{{.State.ExitCode}}", id); out != "3\n" {
		t.Errorf("exit code after stop: %q", out)
	}
	k.run(t, "rm", id)
	if _, err := k.try(t, "run", "--name", "oom", "--memory", "24m", "--network", "none", busybox, "sh", "-c", "x=x; while :; do x=$x$x; done"); exitCode(err) != 137 {
		t.Errorf("one without memory: %v", err)
	}
	if out := k.run(t, "inspect", "--format", "{{.State.OOMKilled}}", "oom"); out != "true\n" {
		t.Errorf("was it killed for memory: %q", out)
	}
	k.run(t, "rm", "oom")
	context := t.TempDir()
	if err := os.WriteFile(filepath.Join(context, "Dockerfile"), []byte("FROM "+busybox+"\nRUN echo built >/file\nCMD [\"cat\", \"/file\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	image := strings.TrimSpace(k.run(t, "build", "--quiet", "--network", "none", context))
	if out := k.run(t, "run", "--rm", "--network", "none", image); out != "built\n" {
		t.Errorf("the built image wrote %q", out)
	}
	k.stop()
	d.checkNoContainers(t)
}

// Containers of dockerd go on while slipwayd is away, and dockerd learns of what happened meanwhile.
func TestDockerOutlivesTheDaemon(t *testing.T) {
	d := startDaemon(t)
	k := startDocker(t, d)
	k.run(t, "pull", "--quiet", busybox)
	gate := t.TempDir()
	id := strings.TrimSpace(k.run(t, "run", "-d", "--network", "none", "-v", gate+":/gate", busybox, "sh", "-c", "while [ ! -e /gate/open ]; do sleep 0.05; done; exit 4"))
	d.kill()
	d.start()
	eventually(t, "exec after the daemon's restart", func() bool {
		out, err := k.try(t, "exec", id, "echo", "alive")
		return err == nil && out == "alive\n"
	})
	if err := os.WriteFile(filepath.Join(gate, "open"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := k.run(t, "wait", id); out != "4\n" {
		t.Errorf("exit code %q", out)
	}
	k.run(t, "rm", id)
	k.stop()
	d.checkNoContainers(t)
}
