package shim_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/shim"
	"github.com/slipwayd/slipway/storage"
)

func TestShimKilled(t *testing.T) {
	w := newWorld(t, shim.Config{})
	ctx := t.Context()
	log := filepath.Join(t.TempDir(), "log")
	dir := t.TempDir()
	ask := filepath.Join(dir, "ask")
	if err := unix.Mkfifo(ask, 0o600); err != nil {
		t.Fatal(err)
	}
	// What the container says before, while and after there is no shim must all be in its log.
	w.run("logs", shim.Streams{Stdin: ask, Stdout: "file://" + log + "?format=cri", Stderr: "file://" + log + "?format=cri"},
		"sh", "-c", "while read n; do echo line $n; echo error $n >&2; done; exit 5")
	w.run("dies", shim.Streams{}, "sh", "-c", "sleep 1000")
	w.create("unstarted", shim.Streams{}, "sh", "-c", "exit 6")
	process := asJSON(t, specs.Process{Args: []string{"sleep", "1000"}, Cwd: "/", Env: []string{"PATH=/bin"}})
	if err := w.m.Exec(ctx, "default", "dies", shim.ExecOptions{ExecID: "e1", Spec: process}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.m.Start(ctx, "default", "dies", "e1"); err != nil {
		t.Fatal(err)
	}
	dies, err := w.m.State(ctx, "default", "dies", "")
	if err != nil {
		t.Fatal(err)
	}
	in, err := os.OpenFile(ask, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	fmt.Fprintln(in, "1")
	old := w.shimPid()
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(in, "2")
	if err := syscall.Kill(int(dies.Pid), syscall.SIGKILL); err != nil { // while nobody, or nobody for long, watches
		t.Fatal(err)
	}
	if x := w.wait("dies", ""); x.Status != 137 {
		t.Errorf("exit of the container that died alone: %+v", x)
	}
	if w.shimPid() == old {
		t.Fatal("the old shim still serves")
	}
	w.await("default /tasks/exit dies/e1 137", "default /tasks/exit dies/dies 137")
	fmt.Fprintln(in, "3")
	in.Close()
	if _, err := w.m.Start(ctx, "default", "unstarted", ""); err != nil {
		t.Fatal(err)
	}
	if x := w.wait("unstarted", ""); x.Status != 6 {
		t.Fatalf("exit of the container started by the second shim: %+v", x)
	}
	if err := w.m.CloseIO(ctx, "default", "logs", ""); err != nil {
		t.Fatal(err)
	}
	if x := w.wait("logs", ""); x.Status != 5 {
		t.Fatalf("exit of the container that went on: %+v", x)
	}
	data, _ := os.ReadFile(log)
	for i := 1; i <= 3; i++ {
		for _, line := range []string{fmt.Sprintf(" stdout F line %d\n", i), fmt.Sprintf(" stderr F error %d\n", i)} {
			if strings.Count(string(data), line) != 1 {
				t.Errorf("the log has not once %q:\n%s", line, data)
			}
		}
	}
	w.await("default /tasks/exit logs/logs 5") // Wait is answered a moment before the event is told
	for _, e := range []string{"default /tasks/exit dies/e1 137", "default /tasks/exit dies/dies 137", "default /tasks/exit logs/logs 5"} {
		if n := w.count(e); n != 1 {
			t.Errorf("event %q was told %d times", e, n)
		}
	}
}

// Both dead: what the last shim left is adopted by one that the next daemon starts.
func TestEverythingKilled(t *testing.T) {
	w := newWorld(t, shim.Config{})
	w.run("lives", shim.Streams{}, "sh", "-c", "while true; do sleep 1; done")
	if err := w.m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(w.shimPid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.open(shim.Config{})
	if s, err := w.m.State(t.Context(), "default", "lives", ""); err != nil || s.Status != shim.Running {
		t.Fatalf("state %+v, %v", s, err)
	}
	if err := w.m.Kill(t.Context(), "default", "lives", "", 9, true); err != nil {
		t.Fatal(err)
	}
	if x := w.wait("lives", ""); x.Status != 137 {
		t.Fatalf("exit %+v", x)
	}
}

const childState = "SLIPWAY_TEST_MANAGER_STATE"

// managerChild is a daemon that another test kills: it creates, starts, kills and deletes tasks as fast as it can.
func managerChild() {
	base = os.Getenv("SLIPWAY_TEST_BASE")
	m, err := shim.New(shim.Config{State: os.Getenv(childState), Binary: filepath.Join(base, "slipway-shim")})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	if err := m.Restore(ctx); err != nil {
		panic(err)
	}
	fmt.Println("ready")
	for i := 0; ; i++ {
		id := fmt.Sprintf("churn%d", i)
		data, _ := json.Marshal(specOf(id, "sleep", "1000"))
		o := shim.CreateOptions{Namespace: "default", ID: id, Spec: data,
			Rootfs: []storage.Mount{{Type: "bind", Source: filepath.Join(base, "rootfs"), Options: []string{"rbind", "ro"}}}}
		_, err := m.Create(ctx, o)
		if err == nil {
			_, err = m.Start(ctx, "default", id, "")
		}
		if err == nil {
			err = m.Kill(ctx, "default", id, "", 9, true)
		}
		if err == nil {
			_, err = m.Wait(ctx, "default", id, "")
		}
		if err == nil {
			_, err = m.Delete(ctx, "default", id, "")
		}
		if err != nil {
			panic(err)
		}
	}
}

// TestKilledAnywhere kills a busy daemon, every other time its shim too, at many moments; the next finds or removes everything.
func TestKilledAnywhere(t *testing.T) {
	w := newWorld(t, shim.Config{})
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	for i := range rounds {
		if err := w.m.Close(); err != nil {
			t.Fatal(err)
		}
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), childState+"="+w.state, "SLIPWAY_TEST_BASE="+base)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		var ready [6]byte
		if _, err := io.ReadFull(out, ready[:]); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(20+7*i) * time.Millisecond) // the moment is the point of the test
		if i%2 == 1 {
			_ = syscall.Kill(w.shimPid(), syscall.SIGKILL)
		}
		_ = child.Process.Kill()
		_ = child.Wait()
		w.open(shim.Config{})
		all, err := w.m.List(t.Context(), "")
		if err != nil || len(all) > 1 {
			t.Fatalf("round %d: tasks %v, %v", i, all, err)
		}
		for _, s := range all {
			if err := w.m.Kill(t.Context(), s.Namespace, s.ID, "", 9, true); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
				t.Fatal(err)
			}
			w.wait(s.ID, "")
			if _, err := w.m.Delete(t.Context(), s.Namespace, s.ID, ""); err != nil {
				t.Fatal(err)
			}
		}
		// What a half-made container left goes before the shim serves; and it does serve.
		w.create("probe", shim.Streams{}, "true")
		if _, err := w.m.Delete(t.Context(), "default", "probe", ""); err != nil {
			t.Fatal(err)
		}
		w.nothingLeft()
	}
}

// TestShimKilledAnywhere kills the shim under a daemon that is creating and deleting tasks. Calls may fail as unavailable, or
// find that the deed was done; no task may be lost and nothing left behind.
func TestShimKilledAnywhere(t *testing.T) {
	w := newWorld(t, shim.Config{})
	ctx, stop := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	for n := range 3 {
		workers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				w.churn(fmt.Sprintf("w%d-%d", n, i))
			}
		})
	}
	for i := range 8 {
		time.Sleep(time.Duration(60+13*i) * time.Millisecond) // the moment is the point of the test
		_ = syscall.Kill(w.shimPid(), syscall.SIGKILL)
	}
	stop()
	workers.Wait()
	if all, _ := w.m.List(t.Context(), ""); len(all) > 0 {
		t.Errorf("tasks left: %+v", all)
	}
}

// churn creates one task, starts, kills and deletes it, and repeats what fails because the shim is gone.
func (w *world) churn(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	again := func(step string, f func() error, done ...error) {
		for {
			err := f()
			if err == nil {
				return
			}
			for _, d := range done {
				if errors.Is(err, d) {
					return
				}
			}
			if !errors.Is(err, errdefs.ErrUnavailable) {
				w.t.Errorf("%s of %s: %v", step, id, err)
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	again("create", func() error {
		_, err := w.m.Create(ctx, w.options(id, shim.Streams{}, "sleep", "1000"))
		return err
	})
	again("start", func() error {
		_, err := w.m.Start(ctx, "default", id, "")
		return err
	}, errdefs.ErrFailedPrecondition) // the dead shim's start has worked
	again("kill", func() error { return w.m.Kill(ctx, "default", id, "", 9, true) }, errdefs.ErrNotFound)
	again("wait", func() error {
		_, err := w.m.Wait(ctx, "default", id, "")
		return err
	})
	again("delete", func() error {
		_, err := w.m.Delete(ctx, "default", id, "")
		return err
	}, errdefs.ErrNotFound)
}
