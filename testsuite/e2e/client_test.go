package e2e

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
)

// dial makes containerd's client of the daemon.
func dial(t *testing.T, d *daemon) (*client.Client, context.Context) {
	t.Helper()
	c, err := client.New(d.address, client.WithTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, namespaces.WithNamespace(t.Context(), "e2e")
}

func pull(t *testing.T, c *client.Client, ctx context.Context) client.Image {
	t.Helper()
	resolver := docker.NewResolver(docker.ResolverOptions{PlainHTTP: true})
	image, err := c.Pull(ctx, busybox, client.WithPullUnpack, client.WithResolver(resolver))
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func create(t *testing.T, c *client.Client, ctx context.Context, image client.Image, id string, args ...string) client.Container {
	t.Helper()
	container, err := c.NewContainer(ctx, id, client.WithNewSnapshot(id, image),
		client.WithNewSpec(oci.WithImageConfig(image), oci.WithProcessArgs(args...)))
	if err != nil {
		t.Fatal(err)
	}
	return container
}

// begin makes and starts a task and answers where its exit comes.
func begin(t *testing.T, ctx context.Context, container client.Container, io cio.Creator) (client.Task, <-chan client.ExitStatus) {
	t.Helper()
	task, err := container.NewTask(ctx, io)
	if err != nil {
		t.Fatal(err)
	}
	exit, err := task.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return task, exit
}

func await(t *testing.T, exit <-chan client.ExitStatus) uint32 {
	t.Helper()
	select {
	case status := <-exit:
		code, _, err := status.Result()
		if err != nil {
			t.Fatal(err)
		}
		return code
	case <-time.After(patience):
		t.Fatal("the process does not end")
		return 0
	}
}

func remove(t *testing.T, ctx context.Context, container client.Container, task client.Task) {
	t.Helper()
	if _, err := task.Delete(ctx); err != nil {
		t.Error(err)
	}
	if err := container.Delete(ctx, client.WithSnapshotCleanup); err != nil {
		t.Error(err)
	}
}

func TestClientRunsAndExecs(t *testing.T) {
	d := startDaemon(t)
	c, ctx := dial(t, d)
	image := pull(t, c, ctx)
	id := name(t)
	container := create(t, c, ctx, image, id, "sh", "-c", "cat; exit 5")
	var stdout bytes.Buffer
	stdin, feed := io.Pipe() // whose end is the container's
	task, exit := begin(t, ctx, container, cio.NewCreator(cio.WithStreams(stdin, &stdout, nil)))
	if pids, err := task.Pids(ctx); err != nil || len(pids) == 0 && task.Pid() == 0 {
		t.Errorf("pids %v, %v", pids, err)
	}
	if _, err := io.WriteString(feed, "through stdin"); err != nil {
		t.Error(err)
	}
	feed.Close()
	if err := task.CloseIO(ctx, client.WithStdinCloser); err != nil && !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if code := await(t, exit); code != 5 {
		t.Errorf("exit status %d, want 5", code)
	}
	remove(t, ctx, container, task)
	if stdout.String() != "through stdin" {
		t.Errorf("standard output %q", stdout.String())
	}

	container = create(t, c, ctx, image, id, "sleep", "1000")
	task, exit = begin(t, ctx, container, cio.NullIO)
	spec, err := container.Spec(ctx)
	if err != nil {
		t.Fatal(err)
	}
	process := *spec.Process
	process.Args = []string{"sh", "-c", "echo from exec; echo to stderr >&2; exit 9"}
	var out, errs bytes.Buffer
	exec, err := task.Exec(ctx, "e1", &process, cio.NewCreator(cio.WithStreams(nil, &out, &errs)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := task.Exec(ctx, "e1", &process, cio.NullIO); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a second process e1: %v, want AlreadyExists", err)
	}
	execExit, err := exec.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if code := await(t, execExit); code != 9 {
		t.Errorf("exit status of the executed process %d, want 9", code)
	}
	if _, err := exec.Delete(ctx); err != nil {
		t.Error(err)
	}
	if out.String() != "from exec\n" || errs.String() != "to stderr\n" {
		t.Errorf("executed process wrote %q and %q", out.String(), errs.String())
	}
	if err := task.Kill(ctx, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := await(t, exit); code != 137 {
		t.Errorf("exit status of a killed task %d, want 137", code)
	}
	if err := task.Kill(ctx, syscall.SIGKILL); !errdefs.IsNotFound(err) {
		t.Errorf("kill of an ended task: %v, want NotFound", err)
	}
	remove(t, ctx, container, task)
	d.checkNoContainers(t, id)
}

func TestClientLogsToAFile(t *testing.T) {
	d := startDaemon(t)
	c, ctx := dial(t, d)
	image := pull(t, c, ctx)
	id := name(t)
	log := filepath.Join(t.TempDir(), "log")
	container := create(t, c, ctx, image, id, "sh", "-c", "echo one; echo two >&2")
	task, exit := begin(t, ctx, container, cio.LogFile(log))
	if code := await(t, exit); code != 0 {
		t.Errorf("exit status %d", code)
	}
	remove(t, ctx, container, task)
	data, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(data), "one\n") || !strings.Contains(string(data), "two\n") {
		t.Errorf("log %q, %v", data, err)
	}
}

func TestClientSeesStableErrors(t *testing.T) {
	d := startDaemon(t)
	c, ctx := dial(t, d)
	image := pull(t, c, ctx)
	id := name(t)
	container := create(t, c, ctx, image, id, "sleep", "1000")
	if _, err := container.Task(ctx, nil); !errdefs.IsNotFound(err) {
		t.Errorf("task of a container without one: %v", err)
	}
	task, exit := begin(t, ctx, container, cio.NullIO)
	if _, err := container.NewTask(ctx, cio.NullIO); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second task: %v, want AlreadyExists", err)
	}
	if _, err := c.NewContainer(ctx, id, client.WithNewSpec()); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second container: %v, want AlreadyExists", err)
	}
	if err := container.Delete(ctx); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete of a running container: %v, want FailedPrecondition", err)
	}
	if _, err := task.Delete(ctx); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete of a running task: %v, want FailedPrecondition", err)
	}
	if _, err := c.NewContainer(ctx, "../evil", client.WithNewSpec()); !errdefs.IsInvalidArgument(err) {
		t.Errorf("container with a path for an id: %v, want InvalidArgument", err)
	}
	if err := task.Kill(ctx, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, exit)
	remove(t, ctx, container, task)
	if err := c.ImageService().Delete(ctx, image.Name(), images.SynchronousDelete()); err != nil {
		t.Error(err)
	}
	d.checkEmpty(t, id)
}

// TestRestartPolicy has the daemon start a task again, as often as a label says, and write where another says.
func TestRestartPolicy(t *testing.T) {
	d := startDaemon(t)
	c, ctx := dial(t, d)
	image := pull(t, c, ctx)
	id, log := name(t), filepath.Join(d.dir, "log-of-restarts")
	container := create(t, c, ctx, image, id, "sh", "-c", "echo again; exit 3")
	labels := map[string]string{
		"containerd.io/restart.status": "running", "containerd.io/restart.policy": "on-failure:2", "containerd.io/restart.loguri": "file://" + log,
	}
	if _, err := container.SetLabels(ctx, labels); err != nil {
		t.Fatal(err)
	}
	_, exit := begin(t, ctx, container, cio.NullIO)
	if code := await(t, exit); code != 3 {
		t.Errorf("exit status %d, want 3", code)
	}
	eventually(t, "two restarts", func() bool {
		data, _ := os.ReadFile(log)
		return string(data) == "again\nagain\n"
	})
	var task client.Task
	eventually(t, "the last end", func() bool {
		var err error
		if task, err = container.Task(ctx, nil); err != nil {
			return false
		}
		status, err := task.Status(ctx)
		return err == nil && status.Status == client.Stopped && status.ExitStatus == 3
	})
	if got, err := container.Labels(ctx); err != nil || got["containerd.io/restart.count"] != "2" {
		t.Errorf("labels %v, %v", got, err)
	}
	remove(t, ctx, container, task)
	d.checkNoContainers(t, id)
}
