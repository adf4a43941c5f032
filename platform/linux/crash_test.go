//go:build linux

package linux_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/linux"
	"github.com/slipwayd/slipway/storage"
)

// The tests below execute this program anew with these set, and kill it.
const (
	crashRoot = "SLIPWAY_CRASH_ROOT" // state directory; the child runs crashChild
	crashSpec = "SLIPWAY_CRASH_SPEC" // platform.Spec, JSON
	crashStep = "SLIPWAY_CRASH_STEP" // after which the child waits for its death
)

// crashChild does one step after the other and tells of each.
func crashChild() {
	ctx := context.Background()
	var s platform.Spec
	check(json.Unmarshal([]byte(os.Getenv(crashSpec)), &s))
	e, err := linux.New(linux.Config{Root: os.Getenv(crashRoot)})
	check(err)
	reached := func(step string) {
		fmt.Println(step)
		if step == os.Getenv(crashStep) {
			select {}
		}
	}
	reached("opened")
	c, err := e.Create(ctx, s)
	check(err)
	reached("created")
	check(c.Init().Start(ctx))
	reached("started")
	p, err := c.Exec(ctx, platform.ProcessSpec{ID: "e", OCI: json.RawMessage(`{"args":["sleep","1000"],"cwd":"/","env":["PATH=/bin"]}`)})
	check(err)
	check(p.Start(ctx))
	reached("executed")
	check(c.Init().Signal(ctx, 9, true))
	_, err = c.Init().Wait(ctx)
	check(err)
	reached("ended")
	check(c.Delete(ctx))
	reached("deleted")
	select {}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type crash struct {
	*testing.T
	root string
	spec platform.Spec
	cmd  *exec.Cmd
	out  *bufio.Scanner
}

// startCrash starts a child that goes as far as step with a container that sleeps, on a root file system that must be mounted.
func startCrash(t *testing.T, step string, hooks *specs.Hooks) *crash {
	s := ociSpec("crash", "sleep", "1000")
	s.Root.Path = "rootfs"
	s.Hooks = hooks
	x := &crash{T: t, root: t.TempDir(), spec: platformSpec(t, "crash", s)}
	x.spec.Rootfs = []storage.Mount{{Type: "bind", Source: rootfs, Options: []string{"rbind", "ro"}}}
	data, err := json.Marshal(x.spec)
	if err != nil {
		t.Fatal(err)
	}
	x.cmd = exec.Command("/proc/self/exe")
	x.cmd.Env = append(os.Environ(), crashRoot+"="+x.root, crashSpec+"="+string(data), crashStep+"="+step)
	x.cmd.Stderr = os.Stderr
	out, err := x.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	x.out = bufio.NewScanner(out)
	return x
}

// await reads what the child tells until step, or until it is dead.
func (x *crash) await(step string) {
	for x.out.Scan() {
		if x.out.Text() == step {
			return
		}
	}
}

func (x *crash) kill() {
	_ = x.cmd.Process.Kill()
	_ = x.cmd.Wait()
}

// recover has a new executor end and delete what it finds, and looks for leaks.
func (x *crash) recover(inspect func(platform.Container)) {
	e := newExecutor(x.T, x.root)
	ids, err := e.List(x.Context())
	if err != nil {
		x.Fatal(err)
	}
	for _, id := range ids {
		c, err := e.Adopt(x.Context(), id)
		if err != nil {
			x.Fatalf("Adopt: %v", err)
		}
		if inspect != nil {
			inspect(c)
		}
		_ = c.Init().Signal(x.Context(), 9, true)
		if err := c.Delete(x.Context()); err != nil {
			if _, err := c.Init().Wait(x.Context()); err != nil {
				x.Fatalf("Wait: %v", err)
			}
			err = c.Delete(x.Context())
			if err != nil {
				x.Fatalf("Delete: %v", err)
			}
		}
	}
	if ids, _ := e.List(x.Context()); len(ids) != 0 {
		x.Errorf("still there: %v", ids)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		x.Fatal(err)
	}
	if strings.Contains(string(mounts), x.spec.Bundle) {
		x.Error("a mount is left below the bundle")
	}
	for _, pattern := range []string{"/sys/fs/cgroup/slipway-test/crash", "/sys/fs/cgroup/*/slipway-test/crash"} {
		if left, _ := filepath.Glob(pattern); len(left) != 0 {
			x.Errorf("cgroups are left: %v", left)
		}
	}
}

func TestCrashAfter(t *testing.T) {
	needContainers(t)
	for _, test := range []struct {
		step    string
		inspect func(*testing.T, platform.Container)
	}{
		{"opened", nil},
		{"created", func(t *testing.T, c platform.Container) {
			if err := c.Init().Start(t.Context()); err != nil {
				t.Errorf("Start of a container created before the crash: %v", err)
			}
		}},
		{"started", func(t *testing.T, c platform.Container) {
			if err := c.Init().Signal(t.Context(), 9, false); err != nil {
				t.Errorf("Signal: %v", err)
			}
			if exit, err := c.Init().Wait(t.Context()); err != nil || exit.Status != 137 || exit.Unknown {
				t.Errorf("a container that outlived its executor ended with %+v, %v; want 137", exit, err)
			}
		}},
		{"executed", func(t *testing.T, c platform.Container) {
			p := c.Processes()
			if len(p) != 1 || p[0].ID() != "e" {
				t.Fatalf("processes %v, want e", p)
			}
			if err := p[0].Signal(t.Context(), 9, false); err != nil {
				t.Errorf("Signal: %v", err)
			}
			if exit, err := p[0].Wait(t.Context()); err != nil || exit.Status != 137 {
				t.Errorf("a process that outlived its executor ended with %+v, %v; want 137", exit, err)
			}
		}},
		{"ended", func(t *testing.T, c platform.Container) {
			if exit, err := c.Init().Wait(t.Context()); err != nil || exit.Status != 137 || exit.Unknown {
				t.Errorf("the exit seen before the crash is now %+v, %v", exit, err)
			}
		}},
		{"deleted", nil},
	} {
		t.Run(test.step, func(t *testing.T) {
			x := startCrash(t, test.step, nil)
			x.await(test.step)
			x.kill()
			x.recover(func(c platform.Container) {
				if test.inspect != nil {
					test.inspect(t, c)
				}
			})
		})
	}
}

// TestCrashWithinStart has an executor die when init was let go on and the fifo not yet removed.
func TestCrashWithinStart(t *testing.T) {
	needContainers(t)
	x := startCrash(t, "created", nil)
	x.await("created")
	x.kill()
	fifo := filepath.Join(x.root, "crash", "exec.fifo")
	if said, err := os.ReadFile(fifo); err != nil || len(said) != 1 {
		t.Fatalf("init said %q, %v", said, err)
	}
	x.recover(func(c platform.Container) {
		// Whether Adopt has seen it or Start found out, nobody waits for what does not come.
		if err := c.Init().Start(t.Context()); err != nil && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Start: %v", err)
		}
		if !c.Init().Started() {
			t.Error("an init that runs is not known as started")
		}
		if err := c.Delete(t.Context()); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Delete of a running container: %v", err)
		}
	})
}

// TestCrashInHook kills the executor in the middle of Create and Delete: its hooks do it.
func TestCrashInHook(t *testing.T) {
	needContainers(t)
	kill := []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "kill -9 $PPID"}}}
	for name, hooks := range map[string]*specs.Hooks{
		"createRuntime": {CreateRuntime: kill}, "poststart": {Poststart: kill}, "poststop": {Poststop: kill},
	} {
		t.Run(name, func(t *testing.T) {
			x := startCrash(t, "deleted", hooks)
			x.await("no such step: until it is dead")
			x.kill()
			x.recover(nil)
		})
	}
}

// TestCrashAnywhere kills at a moment of no meaning; whatever was begun, nothing may be left.
func TestCrashAnywhere(t *testing.T) {
	needContainers(t)
	for i := range 12 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			x := startCrash(t, "deleted", nil)
			x.await("opened")
			time.Sleep(time.Duration(i) * 4 * time.Millisecond)
			x.kill()
			x.recover(nil)
		})
	}
}
