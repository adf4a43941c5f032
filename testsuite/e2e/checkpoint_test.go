package e2e

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// needCriu skips where CRIU is missing or says itself that it cannot work on this kernel.
func needCriu(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("criu"); err != nil {
		t.Skip("checkpoints need CRIU: ", err)
	}
	if out, err := exec.Command("criu", "check").CombinedOutput(); err != nil {
		t.Skipf("CRIU does not work on this kernel: %v\n%s", err, out)
	}
}

// counts is a program that remembers how far it has come nowhere but in its memory.
const counts = `echo mine > /changed; i=0; echo ready; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.05; done`

func TestCtrCheckpoint(t *testing.T) {
	needCriu(t)
	eachCtr(t, func(t *testing.T, c ctr) {
		c.run(t, "images", "pull", "--plain-http", busybox)
		id, again, ref := name(t), name(t)+"-2", "localhost/checkpoint:"+name(t)
		count := func(id string) string {
			out, _ := c.try(t, "tasks", "exec", "--exec-id", "count", id, "cat", "/tmp/count")
			return strings.TrimSpace(out)
		}
		c.run(t, "run", "-d", busybox, id, "sh", "-c", "mkdir -p /tmp; "+counts)
		eventually(t, "the program counts", func() bool { return count(id) > "" })

		images := filepath.Join(c.d.dir, "images")
		c.run(t, "tasks", "checkpoint", "--image-path", images, id)
		if got := children(images); !slices.Contains(got, filepath.Join(images, "inventory.img")) {
			t.Errorf("files of the checkpoint: %q", got)
		}
		if _, err := c.try(t, "tasks", "checkpoint", "--image-path", images, id); err == nil {
			t.Error("a checkpoint replaced another")
		}
		before := count(id)
		eventually(t, "the program goes on", func() bool { return count(id) != before })

		c.run(t, "containers", "checkpoint", "--rw", "--image", "--task", id, ref)
		c.run(t, "tasks", "kill", "-s", "SIGKILL", id)
		eventually(t, "the task has ended", func() bool { return slices.Contains(column(c.run(t, "tasks", "ls"), "STATUS"), "STOPPED") })
		c.run(t, "tasks", "rm", id)
		c.run(t, "containers", "rm", id)

		restored := exec.Command(c.program, c.args([]string{"containers", "restore", "--rw", "--live", again, ref})...)
		if err := restored.Start(); err != nil { // it stays, as the client of the container's streams
			t.Fatal(err)
		}
		eventually(t, "the program goes on where it was", func() bool { return count(again) > "" })
		if out := c.run(t, "tasks", "exec", "--exec-id", "x", again, "cat", "/changed"); out != "mine\n" {
			t.Errorf("a file that the container wrote is %q after the restore", out)
		}
		before = count(again)
		eventually(t, "the program runs", func() bool { return count(again) != before })
		if left := children(filepath.Join(c.d.root, "checkpoint/unpacked/e2e")); len(left) > 0 {
			t.Errorf("unpacked checkpoints are left: %q", left)
		}
		c.run(t, "tasks", "kill", "-s", "SIGKILL", again)
		_ = restored.Wait()
		eventually(t, "the restored task has ended", func() bool { return !slices.Contains(column(c.run(t, "tasks", "ls"), "STATUS"), "RUNNING") })
		_, _ = c.try(t, "tasks", "rm", again) // which restore does itself when it sees the end
		c.run(t, "containers", "rm", again)
		c.run(t, "images", "rm", "--sync", ref)
	})
}

func TestCheckpointContainer(t *testing.T) {
	needCriu(t)
	d, k := startCRI(t)
	k.pull(t)
	pod := ownNetwork(k.podConfig(name(t)))
	config := k.containerConfig(pod, "mkdir -p /tmp; "+counts)
	config.Linux.SecurityContext.Seccomp = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault}
	config.Linux.SecurityContext.MaskedPaths = []string{"/proc/kcore", "/proc/scsi"}
	config.Linux.SecurityContext.ReadonlyPaths = []string{"/proc/sys"}
	_, id := k.start(t, pod, config)
	k.awaitLog(t, id, "ready")
	dir := t.TempDir()
	archive := filepath.Join(dir, "archive.tar")
	for range 2 { // the second replaces the first
		if _, err := k.CheckpointContainer(t.Context(), &runtime.CheckpointContainerRequest{ContainerId: id, Location: archive, Timeout: 60}); err != nil {
			t.Fatal(err)
		}
		k.runs(t, id)
	}
	if left := children(dir); len(left) != 1 {
		t.Errorf("beside the archive is left: %q", left)
	}
	files := readArchive(t, archive)
	for _, name := range []string{"checkpoint/inventory.img", "checkpoint/descriptors.json", "dump.log", "stats-dump", "rootfs-diff.tar"} {
		if len(files[name]) == 0 {
			t.Errorf("the archive has no %s", name)
		}
	}
	if log := string(files["container.log"]); !strings.Contains(log, "ready") {
		t.Errorf("log in the archive: %q", log)
	}
	var about struct {
		ID          string
		Annotations map[string]string
		Metadata    struct{ Name string }
	}
	for _, name := range []string{"config.dump", "spec.dump", "status.dump", "status"} {
		if err := json.Unmarshal(files[name], &about); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if about.ID != id || about.Annotations["io.kubernetes.cri.container-name"] != "main" || about.Metadata.Name != "main" {
		t.Errorf("the archive is of %+v", about)
	}
	for _, location := range []string{"relative", filepath.Join(dir, "no/such/directory/a.tar")} {
		if _, err := k.CheckpointContainer(t.Context(), &runtime.CheckpointContainerRequest{ContainerId: id, Location: location}); err == nil {
			t.Errorf("a checkpoint at %s worked", location)
		}
	}
	k.runs(t, id)
	k.removeAll(t, d)
}

// runs checks that a container executes commands and its own program goes on.
func (k *kubelet) runs(t *testing.T, id string) {
	t.Helper()
	read := func() string {
		out, err := k.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: id, Cmd: []string{"cat", "/tmp/count"}})
		if err != nil {
			return ""
		}
		return string(out.Stdout)
	}
	before := read()
	eventually(t, "the container goes on", func() bool {
		after := read()
		return after != "" && after != before
	})
}

func readArchive(t *testing.T, name string) map[string][]byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := map[string][]byte{}
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCheckpointCutShort kills the daemon, the shims or both while a checkpoint is made, at different moments.
func TestCheckpointCutShort(t *testing.T) {
	needCriu(t)
	d, k := startCRI(t)
	k.pull(t)
	pod := k.podConfig(name(t))
	_, id := k.start(t, pod, k.containerConfig(pod, "mkdir -p /tmp; "+counts))
	k.awaitLog(t, id, "ready")
	dir := t.TempDir()
	for i, what := range []string{"daemon", "shim", "both", "daemon", "shim", "both"} {
		ctx, cancel := context.WithCancel(t.Context())
		told := make(chan error, 1)
		go func() {
			_, err := k.CheckpointContainer(ctx, &runtime.CheckpointContainerRequest{ContainerId: id, Location: filepath.Join(dir, "archive.tar")})
			told <- err
		}()
		eventually(t, "the checkpoint has begun", func() bool { return len(children(filepath.Join(d.root, "checkpoint"))) > 0 || len(told) > 0 })
		time.Sleep(time.Duration(i) * 40 * time.Millisecond) // to come to other moments; any is as good
		shims := d.shims()
		if what != "shim" {
			d.kill()
		}
		if what != "daemon" {
			for _, pid := range shims {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if what != "shim" {
			d.start()
		}
		<-told
		cancel()
		k.runs(t, id)
		eventually(t, "nothing half is left", func() bool {
			return len(pathsWith(dir, "part-")) == 0 && len(pathsWith(filepath.Join(d.state, "pods"), "checkpoint-")) == 0 && len(children(filepath.Join(d.root, "checkpoint"))) == 0
		})
	}
	if _, err := k.CheckpointContainer(t.Context(), &runtime.CheckpointContainerRequest{ContainerId: id, Location: filepath.Join(dir, "archive.tar")}); err != nil {
		t.Error(err)
	}
	k.removeAll(t, d)
}

func TestSlipwayCheckpoint(t *testing.T) {
	needCriu(t)
	d := startDaemon(t)
	id, images := name(t), filepath.Join(d.dir, "images")
	d.slipway(t, "run", "-d", "--name", id, busybox, "sh", "-c", `i=0; while :; do i=$((i+1)); echo number $i; sleep 0.1; done`)
	lines := func() []string { return strings.Fields(strings.ReplaceAll(d.slipway(t, "logs", id), "number ", "")) }
	eventually(t, "the program counts", func() bool { return len(lines()) > 2 })
	d.slipway(t, "checkpoint", "--exit", id, images)
	eventually(t, "the container has ended", func() bool { return strings.Contains(d.slipway(t, "ps", "-a"), "Exited (137)") })
	before := len(lines())
	d.slipway(t, "restore", id, images)
	eventually(t, "the program goes on", func() bool { return len(lines()) > before+2 })
	for i, n := range lines() {
		if n != strconv.Itoa(i+1) {
			t.Fatalf("the program counts %q", lines())
		}
	}
	if _, err := d.trySlipway(t, "restore", id, images); err == nil {
		t.Error("a running container was restored")
	}
	d.slipway(t, "rm", "--force", id)
	d.checkNoContainers(t)
}
