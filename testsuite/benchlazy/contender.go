//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/slipwayd/slipway/testsuite/measure"
)

// contender is a way to get from an image's name to its program's output: daemons, and commands that a user types.
type contender struct {
	name       string
	ours, lazy bool
	twin       bool // starts the eStargz twin
	dir        string
	registry   string // the line's near end
	daemons    []daemon
	server     string // base name of the programs that serve lazy layers
	cache      string // directory of bytes of layers that outlive their image
	env        []string
	// start is what the user types, one after the other; the last one runs args in a container.
	start  func(id, image string, args []string) [][]string
	remove func(image string) []string

	running []*exec.Cmd
}

// daemon is a process that a contender needs, started in order.
type daemon struct {
	argv   []string
	config string // content of dir/<name>.toml
	toml   string
	socket string // there when it is ready
}

func (c *contender) image(repo string) string {
	if c.twin {
		repo = twinPrefix + repo
	}
	return c.registry + "/" + repo + ":latest"
}

// renew starts all daemons on empty directories.
func (c *contender) renew(ctx context.Context) error {
	return c.restart(ctx, func() error { return errors.Join(os.RemoveAll(c.dir), os.MkdirAll(c.dir+"/state", 0o711)) })
}

// restart does something to the directories while no daemon runs.
func (c *contender) restart(ctx context.Context, between func() error) error {
	if err := errors.Join(c.stop(), between()); err != nil {
		return err
	}
	for _, d := range c.daemons {
		_ = os.Remove(d.socket)
		if err := os.WriteFile(filepath.Join(c.dir, d.toml), []byte(d.config), 0o600); err != nil {
			return err
		}
		if err := c.launch(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

func (c *contender) launch(ctx context.Context, d daemon) error {
	log, err := os.Create(filepath.Join(c.dir, d.toml+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(d.argv[0], d.argv[1:]...)
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	c.running = append(c.running, cmd)
	for range 400 {
		if _, err := os.Stat(d.socket); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(25 * time.Millisecond):
		}
	}
	text, _ := os.ReadFile(log.Name())
	return fmt.Errorf("%s does not open %s\n%s", d.argv[0], d.socket, text)
}

// stop ends the daemons, the last one first, and what they left: shims, FUSE servers, mounts.
func (c *contender) stop() error {
	slices.Reverse(c.running)
	for _, cmd := range c.running {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
	}
	c.running = nil
	for range 100 { // a keeper may start a server anew while it is killed
		pids := measure.Processes(c.dir)
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return measure.Unmount(c.dir)
}

// command runs what a user would type, and answers what it printed.
func (c *contender) command(ctx context.Context, argv []string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), c.env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return string(out), nil
}

// contenders are all that are compared, on the near end of a line to the registry.
func contenders(o options, work, registry string) []*contender {
	all := []*contender{
		slipway(o, "slipway lazy", work+"/sl", registry, "auto"),
		slipway(o, "slipway lazy, eStargz", work+"/se", registry, "auto"),
		slipway(o, "slipway full", work+"/sf", registry, "never"),
		containerd(o, work+"/c", registry),
		stargz(o, work+"/cs", registry),
	}
	all[1].twin = true
	return slices.DeleteFunc(all, func(c *contender) bool {
		return !slices.ContainsFunc(strings.Split(o.only, ","), func(part string) bool { return strings.Contains(c.name, part) })
	})
}

func slipway(o options, name, dir, registry, lazy string) *contender {
	socket := dir + "/state/slipway.sock"
	cli := []string{filepath.Join(o.slipway, "slipway"), "--address", socket}
	c := &contender{
		name: name, ours: true, lazy: lazy != "never", dir: dir, registry: registry,
		daemons: []daemon{{socket: socket, toml: "config.toml",
			argv: []string{filepath.Join(o.slipway, "slipwayd"), "--root", dir + "/root", "--state", dir + "/state", "--address", socket, "--config", dir + "/config.toml"}}},
		start: func(_, image string, args []string) [][]string {
			return [][]string{append(slices.Concat(cli, []string{"run", "--rm", "--lazy", lazy, image}), args...)}
		},
		remove: func(image string) []string { return slices.Concat(cli, []string{"rmi", image}) },
	}
	if c.lazy {
		c.server, c.cache = "slipway-fuse", dir+"/root/lazy"
	}
	return c
}

func containerd(o options, dir, registry string) *contender {
	binary, ctr, path := "containerd", "ctr", os.Getenv("PATH")
	if o.peers != "" {
		binary, ctr, path = filepath.Join(o.peers, binary), filepath.Join(o.peers, ctr), o.peers+":"+path
	}
	socket := dir + "/state/containerd.sock"
	cli := []string{ctr, "--address", socket, "-n", "default"}
	return &contender{
		name: version("containerd", binary), dir: dir, registry: registry, env: []string{"PATH=" + path},
		daemons: []daemon{{socket: socket, toml: "config.toml", config: "version = 2\n",
			argv: []string{binary, "--root", dir + "/root", "--state", dir + "/state", "--address", socket, "--config", dir + "/config.toml"}}},
		start: func(id, image string, args []string) [][]string {
			return [][]string{
				slices.Concat(cli, []string{"image", "pull", "--plain-http", image}),
				append(slices.Concat(cli, []string{"run", "--rm", image, id}), args...),
			}
		},
		remove: func(image string) []string { return slices.Concat(cli, []string{"image", "rm", "--sync", image}) },
	}
}

// stargz is containerd with the stargz snapshotter, pulling as its documentation says, on the eStargz twin.
func stargz(o options, dir, registry string) *contender {
	c := containerd(o, dir, registry)
	c.server = filepath.Base(o.stargz)
	c.name, c.lazy, c.twin = version("stargz", o.stargz), true, true
	snapshots := dir + "/state/stargz.sock"
	c.daemons[0].config += fmt.Sprintf("[proxy_plugins.stargz]\n  type = \"snapshot\"\n  address = %q\n", snapshots)
	c.daemons = append([]daemon{{socket: snapshots, toml: "stargz.toml",
		argv: []string{o.stargz, "--address", snapshots, "--root", dir + "/stargz"}}}, c.daemons...)
	cli := []string{"ctr-remote", "--address", dir + "/state/containerd.sock", "-n", "default"}
	c.start = func(id, image string, args []string) [][]string {
		return [][]string{
			slices.Concat(cli, []string{"images", "rpull", "--plain-http", image}),
			append(slices.Concat(cli, []string{"run", "--rm", "--snapshotter", "stargz", image, id}), args...),
		}
	}
	return c
}

// version names a program with what it says of itself.
func version(name, binary string) string {
	out, err := exec.Command(binary, "--version").CombinedOutput()
	if err != nil {
		return name
	}
	f := strings.Fields(string(out))
	for _, word := range f {
		if v := strings.TrimPrefix(word, "v"); strings.Count(v, ".") >= 2 && v[0] >= '0' && v[0] <= '9' {
			return name + " " + v
		}
	}
	return name + " " + f[len(f)-1]
}
