package e2ewine

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/windows"

	"github.com/slipwayd/slipway/client"
	"github.com/slipwayd/slipway/internal/ipc"
	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
	"github.com/slipwayd/slipway/testsuite/winimage"
)

// patience is for what takes milliseconds: nothing is measured by it.
const patience = time.Minute

func binary(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("SLIPWAY_E2E_BIN")
	if dir == "" {
		t.Skip("SLIPWAY_E2E_BIN names no directory with slipwayd.exe, slipway.exe and slipway-shim.exe")
	}
	return filepath.Join(dir, name+".exe")
}

// daemon is one slipwayd.exe with directories and a pipe of its own, that may be killed and started again.
type daemon struct {
	testing.TB
	ctx         context.Context
	root, state string
	address     string
	conf        string // text of the configuration
	cmd         *exec.Cmd
	log         *os.File
	*client.Client
}

func newDaemon(t testing.TB) *daemon {
	t.Helper()
	return newDaemonWith(t, "")
}

// newDaemonWith is newDaemon with a configuration.
func newDaemonWith(t testing.TB, conf string) *daemon {
	t.Helper()
	binary(t, "slipwayd")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{TB: t, ctx: ctx, root: filepath.Join(dir, "root"), state: filepath.Join(dir, "state"), address: `\\.\pipe\slipway-e2e-` + rand.Text(), conf: conf, log: log}
	t.Cleanup(func() {
		log.Close()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("the daemon's log:\n%s", text)
		}
	})
	d.start()
	t.Cleanup(d.end)
	return d
}

// start runs the daemon until it is ready.
func (d *daemon) start() {
	d.Helper()
	d.cmd = exec.Command(binary(d, "slipwayd"), "--config", d.config(), "--root", d.root, "--state", d.state, "--address", d.address)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if err := d.cmd.Start(); err != nil {
		d.Fatal(err)
	}
	var err error
	if d.Client, err = client.New(d.address); err != nil {
		d.Fatal(err)
	}
	d.eventually("the daemon does not answer", func() error {
		ctx, cancel := context.WithTimeout(d.ctx, 5*time.Second)
		defer cancel()
		_, err := d.Info(ctx)
		return err
	})
}

// config is a file, so that none of the machine's is read.
func (d *daemon) config() string {
	path := filepath.Join(filepath.Dir(d.root), "config.toml")
	if err := os.WriteFile(path, []byte(d.conf), 0o600); err != nil {
		d.Fatal(err)
	}
	return path
}

// kill is the death of the daemon.
func (d *daemon) kill() {
	d.Helper()
	d.Client.Close()
	if err := d.cmd.Process.Kill(); err != nil {
		d.Fatal(err)
	}
	_ = d.cmd.Wait()
}

// shim is the process of the host's shim; nil when there is none.
func (d *daemon) shim() *os.Process {
	d.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := ipc.Dial(ctx, filepath.Join(d.state, "shim", "shims", "host", "sock"))
	if ipc.Nobody(err) {
		return nil
	} else if err != nil {
		d.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	defer c.Close()
	var r task.ConnectResponse
	if err := c.Call(ctx, "containerd.task.v3.Task", "Connect", &task.ConnectRequest{}, &r); err != nil {
		d.Fatal(err)
	}
	p, err := os.FindProcess(int(r.ShimPid))
	if err != nil {
		d.Fatal(err)
	}
	return p
}

// end removes all containers and kills daemon and shim: wine knows no polite way.
func (d *daemon) end() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	all, err := d.Containers(ctx)
	for _, ct := range all {
		if task, terr := ct.Task(ctx); terr == nil {
			if kerr := task.Kill(ctx, 9, true); kerr == nil {
				_, _ = task.Wait(ctx)
			}
			_, terr = task.Delete(ctx)
			err = errors.Join(err, terr)
		}
		err = errors.Join(err, ct.Remove(ctx))
	}
	if err != nil {
		d.Errorf("cannot clean up: %v", err)
	}
	shim := d.shim()
	d.kill()
	if shim != nil { // which a living daemon would start again
		_ = shim.Kill()
		_, _ = shim.Wait()
	}
	// Windows may be in the middle of destroying a layer that the daemon had asked it to.
	d.eventually("its directories cannot be removed", func() error { return errors.Join(os.RemoveAll(d.root), os.RemoveAll(d.state)) })
}

// eventually waits for what happens by itself.
func (d *daemon) eventually(what string, try func() error) {
	d.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	d.Fatalf("%s: %v", what, err)
}

// image serves an image of two layers, pulls it and answers what is known of it.
func (d *daemon) image(img registry.Buildable) client.ImageDetail {
	d.Helper()
	r := registry.Start(d)
	r.Push("windows/test:1", img)
	pulled, err := d.Pull(d.ctx, r.Host()+"/windows/test:1", client.PullOptions{})
	if err != nil {
		d.Fatalf("pull: %v", err)
	}
	detail, err := d.Detail(d.ctx, pulled, nil)
	if err != nil {
		d.Fatal(err)
	}
	return detail
}

func hello() ociimage.Image { return winimage.Image(osVersion, "cmd", "/c", "type", `C:\hello.txt`) }

// cli runs slipway.exe.
func (d *daemon) cli(stdin string, args ...string) (stdout, stderr string, code int) {
	d.Helper()
	return d.program(binary(d, "slipway"), stdin, append([]string{"--address", d.address}, args...)...)
}

// program runs any program. One that wine fails to start, by an error that Windows has none like (seen under load), is started again.
func (d *daemon) program(path, stdin string, args ...string) (stdout, stderr string, code int) {
	d.Helper()
	ctx, cancel := context.WithTimeout(d.ctx, patience)
	defer cancel()
	for {
		cmd := exec.CommandContext(ctx, path, args...)
		var out, errs bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
		err := cmd.Run()
		var exit *exec.ExitError
		switch {
		case cmd.Process == nil && errors.Is(err, windows.ERROR_INTERNAL_ERROR) && ctx.Err() == nil:
			continue
		case err != nil && !errors.As(err, &exit):
			d.Fatalf("%s %s: %v", filepath.Base(path), strings.Join(args, " "), err)
		}
		return out.String(), errs.String(), cmd.ProcessState.ExitCode()
	}
}

// must is cli for what has to work.
func (d *daemon) must(args ...string) string {
	d.Helper()
	out, errs, code := d.cli("", args...)
	if code != 0 {
		d.Fatalf("slipway %s: exit code %d: %s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}
