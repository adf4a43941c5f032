package e2ewine

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/slipwayd/slipway/client"
)

func wants(have, want string) error {
	if strings.Contains(have, want) {
		return nil
	}
	return fmt.Errorf("%q has no %q", have, want)
}

// TestDaemonDies: containers do not notice.
func TestDaemonDies(t *testing.T) {
	d := newDaemon(t)
	img := d.image(hello())
	d.must(append([]string{"run", "-d", "--name", "stays", img.Image.Name}, sleeper...)...)
	d.must("run", "-d", "--name", "ends", img.Image.Name, "cmd", "/c", "ping -n 3 127.0.0.1 >nul& exit 5")
	before := d.shim().Pid
	d.kill()
	d.start()
	if after := d.shim().Pid; after != before {
		t.Errorf("the shim was process %d and is %d", before, after)
	}
	if out := d.must("exec", "stays", "cmd", "/c", "echo", "still here"); !strings.Contains(out, "still here") {
		t.Errorf("exec after the daemon's death = %q", out)
	}
	ct, err := d.Container(d.ctx, "ends")
	if err != nil {
		t.Fatal(err)
	}
	task, err := ct.Task(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := task.Wait(d.ctx); err != nil || exit.Code != 5 {
		t.Errorf("what ended meanwhile has %+v, %v", exit, err)
	}
	if out := d.must("run", "--rm", img.Image.Name); !strings.Contains(out, "hello from the top") {
		t.Errorf("run after the daemon's death = %q", out)
	}
}

// TestShimDies: another adopts the containers, with what they write.
func TestShimDies(t *testing.T) {
	d := newDaemon(t)
	img := d.image(hello())
	d.must("run", "-d", "--name", "stays", img.Image.Name, "cmd", "/c",
		`echo up& (for /l %i in (1,1,1000) do if exist C:\hello.txt ping -n 2 127.0.0.1 >nul)& echo later& ping -n 1000 127.0.0.1 >nul`)
	first := d.shim()
	if err := first.Kill(); err != nil {
		t.Fatal(err)
	}
	d.eventually("no other shim comes", func() error {
		if now := d.shim(); now == nil || now.Pid == first.Pid {
			return fmt.Errorf("it is %v", now)
		}
		return nil
	})
	if out := d.must("exec", "stays", "cmd", "/c", "echo", "still here"); !strings.Contains(out, "still here") {
		t.Errorf("exec after the shim's death = %q", out)
	}
	d.must("exec", "stays", "cmd", "/c", `del C:\hello.txt`)
	d.eventually("what is written after the shim's death is lost", func() error { return wants(d.must("logs", "stays"), "later") })
	d.must("kill", "-s", "KILL", "stays")
	ct, err := d.Container(d.ctx, "stays")
	if err != nil {
		t.Fatal(err)
	}
	task, err := ct.Task(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := task.Wait(d.ctx); err != nil || exit.Code != 137 {
		t.Errorf("the adopted container ended with %+v, %v", exit, err)
	}
}

// TestShimDiesBeforeStart: the next shim starts the container, and its output finds the client.
func TestShimDiesBeforeStart(t *testing.T) {
	d := newDaemon(t)
	img := d.image(hello())
	ct, err := d.CreateContainer(d.ctx, client.ContainerOptions{ID: "late", Image: img})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	task, err := ct.NewTask(d.ctx, client.Streams{Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	first := d.shim()
	if err := first.Kill(); err != nil {
		t.Fatal(err)
	}
	d.eventually("no other shim comes", func() error {
		if now := d.shim(); now == nil || now.Pid == first.Pid {
			return fmt.Errorf("it is %v", now)
		}
		return nil
	})
	if err := task.Start(d.ctx); err != nil {
		t.Fatal(err)
	}
	exit, err := task.Wait(d.ctx)
	if err != nil || exit.Code != 0 {
		t.Errorf("it ended with %+v, %v", exit, err)
	}
	if _, err := task.Delete(d.ctx); err != nil {
		t.Error(err)
	}
	if !strings.Contains(out.String(), "hello from the top") {
		t.Errorf("the client reads %q", out.String())
	}
}

// TestBothDie: the containers run on, and the next daemon has them adopted.
func TestBothDie(t *testing.T) {
	d := newDaemon(t)
	img := d.image(hello())
	d.must(append([]string{"run", "-d", "--name", "stays", img.Image.Name}, sleeper...)...)
	shim := d.shim()
	d.kill()
	if err := shim.Kill(); err != nil {
		t.Fatal(err)
	}
	d.start()
	if out := d.must("exec", "stays", "cmd", "/c", "echo", "still here"); !strings.Contains(out, "still here") {
		t.Errorf("exec after both deaths = %q", out)
	}
}

// TestSecondDaemon: one to a root, a state and a pipe.
func TestSecondDaemon(t *testing.T) {
	d := newDaemon(t)
	for name, change := range map[string]func(*daemon){
		"another slipwayd uses the root":     func(o *daemon) { o.root, o.address = d.root, d.address+"-2" },
		"another process already answers at": func(o *daemon) { o.address = d.address },
	} {
		dir := t.TempDir()
		other := &daemon{TB: t, root: dir + `\root`, state: dir + `\state`}
		change(other)
		out, err := runDaemon(other)
		if err == nil || !strings.Contains(out, name) {
			t.Errorf("a second daemon says %q, %v, want %q", out, err, name)
		}
	}
}
