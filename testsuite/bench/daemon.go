//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"google.golang.org/grpc/metadata"

	"github.com/slipwayd/slipway/client"
	"github.com/slipwayd/slipway/testsuite/measure"
)

// daemon is one of those compared.
type daemon struct {
	name     string
	dir      string
	socket   string
	registry string
	argv     []string
	env      []string
	runtime  string
	pullCmd  func(image string) []string
	runCmd   func(id, image string, args ...string) []string
	rmiCmd   func(image string) []string
	leases   bool // a snapshot needs a lease until a container refers to it

	cmd    *exec.Cmd
	client *client.Client
}

func slipway(bin, dir, registry string) *daemon {
	socket := filepath.Join(dir, "state/slipway.sock")
	cli := []string{filepath.Join(bin, "slipway"), "--address", socket}
	return &daemon{
		name: "slipway", dir: dir, socket: socket, registry: registry, runtime: client.DefaultRuntime,
		argv:    []string{filepath.Join(bin, "slipwayd"), "--root", dir + "/root", "--state", dir + "/state", "--address", socket, "--config", dir + "/config.toml"},
		pullCmd: func(image string) []string { return append(cli, "pull", "-q", "--lazy=never", image) }, // in full, each time
		runCmd: func(_, image string, args ...string) []string {
			return append(append(cli, "run", "--rm", image), args...)
		},
		rmiCmd: func(image string) []string { return append(cli, "rmi", image) },
	}
}

func containerd(peers, dir, registry string) *daemon {
	binary, ctr, name, path := "containerd", "ctr", "containerd (Debian)", os.Getenv("PATH")
	if peers != "" {
		binary, ctr, path = filepath.Join(peers, binary), filepath.Join(peers, ctr), peers+":"+path
	}
	if v, err := exec.Command(binary, "--version").Output(); err == nil {
		if f := strings.Fields(string(v)); len(f) > 2 {
			name = "containerd " + f[2]
		}
	}
	socket := filepath.Join(dir, "state/containerd.sock")
	cli := []string{ctr, "--address", socket, "-n", "default"}
	return &daemon{
		name: name, dir: dir, socket: socket, registry: registry, runtime: "io.containerd.runc.v2", leases: true, env: []string{"PATH=" + path},
		argv:    []string{binary, "--root", dir + "/root", "--state", dir + "/state", "--address", socket, "--config", dir + "/config.toml"},
		pullCmd: func(image string) []string { return append(cli, "image", "pull", "--plain-http", image) },
		runCmd: func(id, image string, args ...string) []string {
			return append(append(cli, "run", "--rm", image, id), args...)
		},
		rmiCmd: func(image string) []string { return append(cli, "image", "rm", "--sync", image) },
	}
}

func (d *daemon) image(name string) string { return d.registry + "/" + name + ":latest" }

func (d *daemon) start(ctx context.Context) error {
	if err := os.MkdirAll(d.dir+"/state", 0o711); err != nil {
		return err
	}
	if err := os.WriteFile(d.dir+"/config.toml", []byte("version = 2\n"), 0o600); err != nil {
		return err
	}
	if d.name == "slipway" { // its config has no version
		if err := os.WriteFile(d.dir+"/config.toml", nil, 0o600); err != nil {
			return err
		}
	}
	log, err := os.Create(d.dir + "/log")
	if err != nil {
		return err
	}
	defer log.Close()
	d.cmd = exec.Command(d.argv[0], d.argv[1:]...)
	d.cmd.Env = append(os.Environ(), d.env...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := d.cmd.Start(); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%s runs as pid %d in %s\n", d.name, d.cmd.Process.Pid, d.dir)
	if d.client, err = client.New(d.socket, client.WithSnapshotter("overlayfs")); err != nil {
		return err
	}
	for range 200 {
		if _, _, err = d.client.Version(ctx); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	text, _ := os.ReadFile(d.dir + "/log")
	return fmt.Errorf("it does not answer: %w\n%s", err, text)
}

// stop ends the daemon and the shims that it left, which all have its state directory in their command line or environment.
func (d *daemon) stop() error {
	err := errors.Join(d.client.Close(), d.cmd.Process.Signal(syscall.SIGTERM))
	_ = d.cmd.Wait()
	for _, pid := range d.processes() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	return err
}

// processes are the daemon's and its shims', found by the directory or socket in their command lines.
func (d *daemon) processes() []int { return measure.Processes(d.dir) }

// command runs one of the daemon's command lines and answers how long it took.
func (d *daemon) command(ctx context.Context, argv []string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), d.env...)
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return time.Since(begin), nil
}

// leased answers a context whose calls are under a lease of their own where the daemon needs that, as containerd's client does
// when it makes a container.
func (d *daemon) leased(ctx context.Context) (_ context.Context, end func() error, err error) {
	if !d.leases {
		return ctx, func() error { return nil }, nil
	}
	c := leasesapi.NewLeasesClient(d.client.Conn())
	l, err := c.Create(ctx, &leasesapi.CreateRequest{ID: newID()})
	if err != nil {
		return ctx, nil, err
	}
	return metadata.AppendToOutgoingContext(ctx, "containerd-lease", l.Lease.ID), func() error {
		_, err := c.Delete(ctx, &leasesapi.DeleteRequest{ID: l.Lease.ID})
		return err
	}, nil
}

func (d *daemon) pull(ctx context.Context, name string) error {
	_, err := d.command(ctx, d.pullCmd(d.image(name)))
	return err
}
