package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// onPath finds a client that Debian has no package of; nobody needs it to test the rest.
func onPath(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("needs %s on PATH, which is no package of Debian 12: %v", program, err)
	}
	return path
}

func TestNerdctlRunsContainers(t *testing.T) {
	program := onPath(t, "nerdctl")
	d := startDaemon(t)
	data := t.TempDir()
	nerdctl := func(args ...string) (string, error) {
		return try(t, nil, program, append([]string{"--address", d.address, "--namespace", "e2e", "--data-root", data,
			"--cni-netconfpath", filepath.Join(data, "cni"), "--cgroup-manager", "cgroupfs", "--insecure-registry"}, args...)...)
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := nerdctl(args...)
		if err != nil {
			t.Fatalf("nerdctl %s: %v", strings.Join(args, " "), err)
		}
		return out
	}
	must("pull", "--quiet", busybox)
	if out := must("run", "--rm", "--net", "none", busybox, "echo", "hello"); out != "hello\n" {
		t.Errorf("echo hello wrote %q", out)
	}
	if _, err := nerdctl("run", "--rm", "--net", "none", busybox, "sh", "-c", "exit 7"); exitCode(err) != 7 {
		t.Errorf("exit 7: %v", err)
	}
	must("run", "-d", "--name", "c1", "--net", "none", busybox, "sh", "-c", "trap 'exit 3' TERM; echo begun; while :; do sleep 0.1; done")
	eventually(t, "the log", func() bool { return must("logs", "c1") == "begun\n" })
	if out := must("exec", "c1", "sh", "-c", "echo inside >/mark; cat /mark"); out != "inside\n" {
		t.Errorf("exec wrote %q", out)
	}
	must("pause", "c1")
	must("unpause", "c1")
	if out := must("stats", "--no-stream", "--format", "{{.PIDs}}", "c1"); strings.TrimSpace(out) == "0" {
		t.Error("stats count no process")
	}
	must("commit", "c1", "committed:1")
	if out := must("run", "--rm", "--net", "none", "committed:1", "cat", "/mark"); out != "inside\n" {
		t.Errorf("the committed image's file holds %q", out)
	}
	must("stop", "--time", "30", "c1")
	if out := must("inspect", "--format", "{{.State.ExitCode}}", "c1"); out != "3\n" {
		t.Errorf("exit code after stop: %q", out)
	}
	must("rm", "c1")
	archive := filepath.Join(t.TempDir(), "image.tar")
	must("save", "--output", archive, busybox)
	must("rmi", "--force", busybox, "committed:1")
	must("load", "--input", archive)
	must("rmi", busybox)
	d.checkEmpty(t)
}

func TestBuildKitBuilds(t *testing.T) {
	buildctl, buildkitd := onPath(t, "buildctl"), onPath(t, "buildkitd")
	d := startDaemon(t)
	dir, err := os.MkdirTemp("/var/tmp", "slipway-buildkit-")
	if err != nil {
		t.Fatal(err)
	}
	address := "unix://" + filepath.Join(dir, "socket")
	p := exec.Command(buildkitd, "--addr", address, "--root", filepath.Join(dir, "root"), "--oci-worker=false",
		"--containerd-worker=true", "--containerd-worker-addr", d.address, "--containerd-worker-net", "host", "--containerd-worker-snapshotter", "overlayfs")
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		_ = p.Process.Signal(syscall.SIGTERM)
		_ = p.Wait() // how it ended is not what is tested
	})
	t.Cleanup(func() {
		stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "buildkitd to serve", func() bool {
		_, err := try(t, nil, buildctl, "--addr", address, "debug", "workers")
		return err == nil
	})
	dockerfile := "FROM " + busybox + " AS one\n" +
		"RUN --mount=type=cache,target=/cache echo built >/cache/f && cp /cache/f /file && rm /bin/vi\n" +
		"FROM " + busybox + "\nCOPY --from=one --chown=5:6 /file /file\nUSER 5\nCMD [\"cat\", \"/file\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, extra := range []string{"", "--export-cache type=registry,mode=max,ref=" + hub.Host() + "/built/cache:1"} {
		run(t, nil, buildctl, append([]string{"--addr", address, "build", "--frontend", "dockerfile.v0", "--local", "context=" + dir, "--local", "dockerfile=" + dir,
			"--output", "type=image,unpack=true,push=true,name=" + hub.Host() + "/built/image:1"}, strings.Fields(extra)...)...)
	}
	if out := d.slipway(t, "-n", "buildkit", "run", "--rm", hub.Host()+"/built/image:1"); out != "built\n" {
		t.Errorf("the built image wrote %q", out)
	}
	if out := d.slipway(t, "run", "--rm", hub.Host()+"/built/image:1"); out != "built\n" {
		t.Errorf("the pushed image wrote %q", out)
	}
	run(t, nil, buildctl, "--addr", address, "prune", "--all")
	stop()
	d.checkNoContainers(t)
}
