package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestDaemonDiesDuringALife kills the daemon after ever more of a container's life has been asked for. Whatever it was
// doing, the next daemon knows what there is, and all of it can be removed.
func TestDaemonDiesDuringALife(t *testing.T) {
	d := startDaemon(t)
	c, ctx := dial(t, d)
	img := pull(t, c, ctx)
	var ids []string
	for step := range 30 {
		c, ctx := dial(t, d)
		img, err := c.GetImage(ctx, img.Name())
		if err != nil {
			t.Fatal(err)
		}
		id := name(t)
		ids = append(ids, id)
		lived := make(chan struct{})
		go func() {
			defer close(lived)
			live(ctx, c, img, id)
		}()
		// Steps of a life take a millisecond or a few; the exact moment is left to chance.
		time.Sleep(time.Duration(step) * 1500 * time.Microsecond)
		d.kill()
		<-lived
		d.start()
		c, ctx = dial(t, d)
		bury(t, c, ctx)
		d.checkNoContainers(t, id)
	}
	c, ctx = dial(t, d)
	dropImage(t, d, c, ctx, img.Name(), ids...)
}

// TestShimDiesDuringALife kills the shim instead. The daemon goes on: what was asked for fails or succeeds within bounds, and
// all of it can be removed.
func TestShimDiesDuringALife(t *testing.T) {
	d := startDaemon(t)
	c, ctx := dial(t, d)
	img := pull(t, c, ctx)
	var ids []string
	for step := range 30 {
		id := name(t)
		ids = append(ids, id)
		bounded, cancel := context.WithTimeout(ctx, patience)
		lived := make(chan struct{})
		go func() {
			defer close(lived)
			live(bounded, c, img, id)
		}()
		time.Sleep(time.Duration(step) * 1500 * time.Microsecond)
		for _, s := range d.shims() {
			_ = syscall.Kill(s, syscall.SIGKILL)
		}
		<-lived
		if bounded.Err() != nil {
			t.Errorf("step %d: the life of the container hangs", step)
		}
		cancel()
		bury(t, c, ctx)
		d.checkNoContainers(t, id)
	}
	dropImage(t, d, c, ctx, img.Name(), ids...)
}

// live takes a container through its life until the daemon is gone.
func live(ctx context.Context, c *client.Client, img client.Image, id string) {
	container, err := c.NewContainer(ctx, id, client.WithNewSnapshot(id, img),
		client.WithNewSpec(oci.WithImageConfig(img), oci.WithProcessArgs("sh", "-c", "sleep 0.01")))
	if err != nil {
		return
	}
	task, err := container.NewTask(ctx, cio.NullIO)
	if err != nil {
		return
	}
	exit, err := task.Wait(ctx)
	if err != nil {
		return
	}
	if err := task.Start(ctx); err != nil {
		return
	}
	if status := <-exit; status.Error() != nil {
		return
	}
	if _, err := task.Delete(ctx); err != nil {
		return
	}
	_ = container.Delete(ctx, client.WithSnapshotCleanup)
}

// bury removes all containers as an administrator would after a crash.
func bury(t *testing.T, c *client.Client, ctx context.Context) {
	t.Helper()
	containers, err := c.Containers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, container := range containers {
		task, err := container.Task(ctx, nil)
		if err == nil {
			if _, err := task.Delete(ctx, client.WithProcessKill); err != nil {
				t.Errorf("cannot delete the task of %s: %v", container.ID(), err)
			}
		} else if !errdefs.IsNotFound(err) {
			t.Errorf("task of %s: %v", container.ID(), err)
		}
		if err := container.Delete(ctx, client.WithSnapshotCleanup); err != nil {
			t.Errorf("cannot delete %s: %v", container.ID(), err)
		}
	}
}

// beat starts a container that appends to a file on the host ten times a second, and answers the file.
func beat(t *testing.T, c *client.Client, ctx context.Context, img client.Image, id string) (client.Task, string) {
	t.Helper()
	dir := t.TempDir()
	mount := oci.WithMounts([]specs.Mount{{Type: "bind", Source: dir, Destination: "/beat", Options: []string{"rbind", "rw"}}})
	container, err := c.NewContainer(ctx, id, client.WithNewSnapshot(id, img), client.WithNewSpec(oci.WithImageConfig(img), mount,
		oci.WithProcessArgs("sh", "-c", "trap 'exit 42' TERM; while true; do echo . >>/beat/file; sleep 0.1; done")))
	if err != nil {
		t.Fatal(err)
	}
	task, _ := begin(t, ctx, container, cio.NullIO)
	file := filepath.Join(dir, "file")
	checkBeats(t, file) // from the first on, it answers SIGTERM
	return task, file
}

// checkBeats fails unless the file goes on growing.
func checkBeats(t *testing.T, file string) {
	t.Helper()
	size := func() int64 {
		info, err := os.Stat(file)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	before := size()
	eventually(t, "another beat of the container", func() bool { return size() > before })
}

// TestContainersOutliveWhatRunsThem kills the daemon, the shim and both, and finds the container unharmed each time.
func TestContainersOutliveWhatRunsThem(t *testing.T) {
	d := startDaemon(t)
	c, ctx := dial(t, d)
	img := pull(t, c, ctx)
	id := name(t)
	task, file := beat(t, c, ctx, img, id)
	pid := task.Pid()
	killShims := func() {
		shims := d.shims()
		if len(shims) == 0 {
			t.Fatal("there is no shim to kill")
		}
		for _, s := range shims {
			if err := syscall.Kill(s, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
		eventually(t, "another shim", func() bool {
			now := d.shims()
			return len(now) > 0 && !slices.ContainsFunc(now, func(p int) bool { return slices.Contains(shims, p) })
		})
	}
	for _, tt := range []struct {
		what string
		do   func()
	}{
		{"a restart of the daemon", func() { d.stop(); d.start() }},
		{"death of the daemon", func() { d.kill(); d.start() }},
		{"death of the shim", killShims},
		{"death of both", func() { d.kill(); d.killShimsOnly(t); d.start() }},
		{"another death of the daemon", func() { d.kill(); d.start() }},
	} {
		tt.do()
		checkBeats(t, file)
		c, ctx := dial(t, d)
		container, err := c.LoadContainer(ctx, id)
		if err != nil {
			t.Fatalf("after %s: %v", tt.what, err)
		}
		var found client.Task
		eventually(t, "the running task after "+tt.what, func() bool {
			found, err = container.Task(ctx, nil)
			if err != nil {
				return false
			}
			status, err := found.Status(ctx)
			return err == nil && status.Status == client.Running
		})
		if found.Pid() != pid {
			t.Errorf("after %s the pid is %d, was %d", tt.what, found.Pid(), pid)
		}
		process := specs.Process{Args: []string{"true"}, Cwd: "/", Env: []string{"PATH=/bin"}}
		exec, err := found.Exec(ctx, "exec", &process, cio.NullIO)
		if err != nil {
			t.Fatalf("after %s: %v", tt.what, err)
		}
		exit, err := exec.Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := exec.Start(ctx); err != nil {
			t.Fatalf("after %s: %v", tt.what, err)
		}
		if code := await(t, exit); code != 0 {
			t.Errorf("after %s true exits %d", tt.what, code)
		}
		if _, err := exec.Delete(ctx); err != nil {
			t.Error(err)
		}
	}
	c, ctx = dial(t, d)
	container, err := c.LoadContainer(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	task, err = container.Task(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	exit, err := task.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Kill(ctx, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := await(t, exit); code != 42 {
		t.Errorf("exit status after all that %d, want 42", code)
	}
	remove(t, ctx, container, task)
	dropImage(t, d, c, ctx, img.Name(), id)
}

// killShimsOnly kills the shims while no daemon is there to replace them.
func (d *daemon) killShimsOnly(t *testing.T) {
	t.Helper()
	for _, s := range d.shims() {
		if err := syscall.Kill(s, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "end of the shims", func() bool { return len(d.shims()) == 0 })
}

// TestExitWhileNobodyWatches ends a container while there is no daemon, or neither daemon nor shim.
func TestExitWhileNobodyWatches(t *testing.T) {
	for _, shimDies := range []bool{false, true} {
		t.Run(fmt.Sprintf("shim dies %t", shimDies), func(t *testing.T) {
			d := startDaemon(t)
			c, ctx := dial(t, d)
			img := pull(t, c, ctx)
			id := name(t)
			task, _ := beat(t, c, ctx, img, id)
			d.kill()
			if shimDies {
				d.killShimsOnly(t)
			}
			if err := syscall.Kill(int(task.Pid()), syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			eventually(t, "end of the process", func() bool { return gone(int(task.Pid())) })
			d.start()
			c, ctx = dial(t, d)
			container, err := c.LoadContainer(ctx, id)
			if err != nil {
				t.Fatal(err)
			}
			task, err = container.Task(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			exit, err := task.Wait(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if code := await(t, exit); code != 42 && !shimDies {
				t.Errorf("exit status %d, want 42", code)
			}
			remove(t, ctx, container, task)
			dropImage(t, d, c, ctx, img.Name(), id)
		})
	}
}

// gone tells whether a process has ended; nobody may have reaped it yet.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
}

// TestAutoRemoveIsKept ends containers that are to be removed at their end, with and without a daemon to see it.
func TestAutoRemoveIsKept(t *testing.T) {
	d := startDaemon(t)
	c, ctx := dial(t, d)
	img := pull(t, c, ctx)
	seen, unseen := name(t), name(t)
	label := client.WithContainerLabels(map[string]string{"slipway.io/auto-remove": "true"})
	for _, id := range []string{seen, unseen} {
		container, err := c.NewContainer(ctx, id, label, client.WithNewSnapshot(id, img),
			client.WithNewSpec(oci.WithImageConfig(img), oci.WithProcessArgs("sleep", "1000")))
		if err != nil {
			t.Fatal(err)
		}
		task, _ := begin(t, ctx, container, cio.NullIO)
		if id == unseen {
			d.kill()
		}
		if err := syscall.Kill(int(task.Pid()), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if id == unseen {
			d.start()
			c, ctx = dial(t, d)
		}
		eventually(t, "removal of the container", func() bool {
			_, err := c.LoadContainer(ctx, id)
			return errdefs.IsNotFound(err)
		})
		d.checkNoContainers(t, id)
	}
	dropImage(t, d, c, ctx, img.Name(), seen, unseen)
}
