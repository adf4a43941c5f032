package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/slipwayd/slipway/client"
	"github.com/slipwayd/slipway/spec"
)

// runFlags are those of `slipway run`.
type runFlags struct {
	interactive, tty, detach, rm, readOnly bool

	name, user, workdir, memory, entrypoint, hostname, pull, runtime string
	env, envFiles, volumes, labels                                   []string
	cpus                                                             float64
	lazy                                                             lazyMode
	networkFlags
}

func (a *app) runCmd() *cobra.Command {
	var r runFlags
	cmd := &cobra.Command{
		Use: "run [flags] IMAGE [COMMAND [ARG...]]", Short: "Run a command in a new container; the image is pulled when it is not here",
		Args: cobra.MinimumNArgs(1),
		Example: `  slipway run --rm alpine echo hello
  slipway run -it --rm alpine sh
  slipway run -d --name web --network host --memory 256m -v /srv/www:/usr/share/nginx/html:ro nginx`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				return a.run(cmd.Context(), c, r, cmd.Flags().Changed("entrypoint"), args)
			})
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows the image is the container's
	f.BoolVarP(&r.interactive, "interactive", "i", false, "pass standard input on")
	f.BoolVarP(&r.tty, "tty", "t", false, "give it a terminal")
	f.BoolVarP(&r.detach, "detach", "d", false, "run in the background and print the id; see slipway logs")
	f.BoolVar(&r.rm, "rm", false, "delete the container when it ends")
	f.StringVar(&r.name, "name", "", "id of the container, made up if empty")
	f.StringArrayVarP(&r.env, "env", "e", nil, "KEY=VALUE, or KEY to pass on")
	f.StringArrayVar(&r.envFiles, "env-file", nil, "file of KEY=VALUE lines")
	f.StringArrayVarP(&r.volumes, "volume", "v", nil, "SOURCE:TARGET[:OPTIONS]")
	f.StringArrayVarP(&r.labels, "label", "l", nil, "KEY=VALUE on the container's record")
	f.StringVarP(&r.user, "user", "u", "", "USER[:GROUP], names or numbers")
	f.StringVarP(&r.workdir, "workdir", "w", "", "working directory")
	f.StringVarP(&r.memory, "memory", "m", "", "memory limit, such as 512m")
	f.Float64Var(&r.cpus, "cpus", 0, "number of CPUs it may use, such as 0.5")
	f.StringVar(&r.network, "network", "none", networkUsage)
	addNetworkFlags(f, &r)
	f.StringVar(&r.entrypoint, "entrypoint", "", "program to run instead of the image's entrypoint")
	f.StringVar(&r.hostname, "hostname", "", "host name inside, the id if empty")
	f.BoolVar(&r.readOnly, "read-only", false, "make the root file system read-only")
	f.StringVar(&r.pull, "pull", "missing", "when to pull: always, missing or never")
	r.lazy.add(cmd)
	f.StringVar(&r.runtime, "runtime", client.DefaultRuntime, "runtime name")
	return cmd
}

// containerName is containerd's rule for identifiers (pkg/identifiers).
var containerName = regexp.MustCompile(`^[A-Za-z0-9](?:[._-]?[A-Za-z0-9]){0,75}$`)

func (a *app) run(ctx context.Context, c *client.Client, r runFlags, hasEntrypoint bool, args []string) error {
	if r.detach && r.interactive {
		return errors.New("--detach and --interactive exclude each other")
	}
	if r.name == "" {
		r.name = newID()
	} else if !containerName.MatchString(r.name) {
		return fmt.Errorf("--name %q is not letters and digits with single '.', '_' or '-' between them, 76 at most", r.name)
	}
	learned := make(chan struct{})
	go func() { // what CreateContainer will ask, while the image is looked for
		defer close(learned)
		_, _ = c.Snapshotter(ctx)
	}()
	defer func() { <-learned }()
	img, err := a.imageForRun(ctx, c, args[0], r.pull, string(r.lazy))
	if err != nil {
		return err
	}
	detail, err := c.Detail(ctx, img, nil)
	if err != nil {
		return err
	}
	opts, err := r.specOpts(detail, hasEntrypoint, args[1:])
	if err != nil {
		return err
	}
	labels, err := keyValues(r.labels)
	if err != nil {
		return err
	}
	streams := client.Streams{Terminal: r.tty}
	if r.detach {
		if streams.LogURI, err = logFor(ctx, c, r.name, labels); err != nil {
			return err
		}
		if r.rm {
			labels[client.LabelAutoRemove] = "true"
		}
	} else {
		streams.Stdout, streams.Stderr = a.out, a.err
		if r.interactive {
			streams.Stdin = a.in
		}
	}
	joined, err := r.join(ctx, labels)
	if err != nil {
		return err
	}
	ct, err := c.CreateContainer(ctx, client.ContainerOptions{ID: r.name, Image: detail, User: r.user, Labels: labels, Runtime: r.runtime, Spec: append(opts, joined...)})
	if err != nil {
		return errors.Join(err, leave(context.WithoutCancel(ctx), labels))
	}
	return a.startContainer(ctx, c, ct, r, streams)
}

// startContainer runs the new container's task, in the background or until its end.
func (a *app) startContainer(ctx context.Context, c *client.Client, ct *client.Container, r runFlags, s client.Streams) error {
	cleanup := context.WithoutCancel(ctx) // an interrupt must not leave half of a container
	task, err := ct.NewTask(ctx, s)
	if err != nil {
		return errors.Join(explainStart(err, ct.ID), remove(cleanup, c, ct.ID, true))
	}
	if r.detach {
		if err := task.Start(ctx); err != nil {
			return errors.Join(explainStart(err, ct.ID), remove(cleanup, c, ct.ID, true))
		}
		fmt.Fprintln(a.out, ct.ID)
		return nil
	}
	exit, err := a.foreground(ctx, &task.Process, s)
	var lost *lostSight
	if errors.As(err, &lost) {
		return err
	} else if err != nil {
		return errors.Join(explainStart(err, ct.ID), remove(cleanup, c, ct.ID, true))
	}
	if exit.Code != 0 {
		a.explainEnd(cleanup, ct, task)
	}
	if r.rm {
		if err := ct.Remove(cleanup); err != nil {
			return err
		}
	}
	if exit.Code != 0 {
		return exitCode(exit.Code)
	}
	return nil
}

// explainEnd says what the exit code of a container does not: that the kernel took its memory for too much.
func (a *app) explainEnd(ctx context.Context, ct *client.Container, task *client.Task) {
	st, err := task.Status(ctx)
	if err != nil || !st.OOMKilled { // the code is told in any case
		return
	}
	fmt.Fprintf(a.err, "slipway: killed: out of memory%s\n", memoryLimit(ct.Spec))
}

// memoryLimit is what a container may use, and what to do about it; empty without a limit of its own.
func memoryLimit(s *specs.Spec) string {
	if s == nil || s.Linux == nil || s.Linux.Resources == nil || s.Linux.Resources.Memory == nil || s.Linux.Resources.Memory.Limit == nil {
		return " (it has no limit of its own: the host is short of memory)"
	}
	return fmt.Sprintf(" (limit %s); raise --memory", units.CustomSize("%.4g%s", float64(*s.Linux.Resources.Memory.Limit), 1024, []string{"", "K", "M", "G", "T"}))
}

func (a *app) imageForRun(ctx context.Context, c *client.Client, ref, policy, lazy string) (client.Image, error) {
	switch policy {
	case "always", "missing", "never":
	default:
		return client.Image{}, fmt.Errorf("--pull %q is none of always, missing, never", policy)
	}
	if policy != "always" {
		img, err := findImage(ctx, c, ref)
		if errdefs.IsNotFound(err) && policy == "never" {
			return img, fmt.Errorf("image %s is not here; slipway pull it, or leave out --pull never: %w", ref, errdefs.ErrNotFound)
		}
		if err == nil && lazy == "never" { // what was pulled otherwise is to be here too
			if err = a.waitLazy(ctx, c, img.Name, false); errdefs.IsNotImplemented(err) { // containerd, which has no such layers
				err = nil
			}
			return img, err
		}
		if err == nil || !errdefs.IsNotFound(err) || isID(ref) {
			return img, err
		}
	}
	return a.pull(ctx, c, ref, false, client.PullOptions{Lazy: lazy})
}

// specOpts turns flags into options of the document.
func (r runFlags) specOpts(img client.ImageDetail, hasEntrypoint bool, args []string) ([]spec.Opt, error) {
	hostname := r.hostname
	if hostname == "" {
		hostname = r.name[:min(len(r.name), 63)]
	}
	env, err := r.environment()
	if err != nil {
		return nil, err
	}
	opts := []spec.Opt{spec.Hostname(hostname), spec.Env(env...)}
	add := func(o spec.Opt) { opts = append(opts, o) }
	argv := r.argv(img, hasEntrypoint, args)
	if len(argv) == 0 {
		return nil, fmt.Errorf("nothing to run: name a command after %s", img.Image.Name)
	}
	if hasEntrypoint || len(args) > 0 {
		add(spec.Args(argv...))
	}
	if r.tty {
		add(spec.Terminal())
	}
	if r.workdir != "" {
		add(spec.Cwd(r.workdir))
	}
	if r.readOnly {
		add(spec.ReadOnly())
	}
	if r.memory != "" {
		n, err := units.RAMInBytes(r.memory)
		if err != nil {
			return nil, fmt.Errorf("--memory: %w", err)
		}
		add(spec.Memory(n))
	}
	if r.cpus != 0 {
		add(spec.CPUs(r.cpus))
	}
	for _, v := range r.volumes {
		parse := spec.ParseVolume
		if img.Config.OS == "windows" {
			parse = spec.ParseWindowsVolume
		}
		m, err := parse(v)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(m.Source); err != nil && !strings.HasPrefix(m.Source, `\\.\pipe\`) {
			return nil, fmt.Errorf("volume %q: make its source first: %w", v, err)
		}
		add(spec.Mounts(m))
	}
	if r.network == "host" {
		add(spec.HostNetwork(hostFiles()...))
	} else if r.network != "none" && r.network != hnsNetwork {
		return nil, fmt.Errorf("--network %q is none of: %s", r.network, networkUsage)
	}
	add(spec.DefaultSeccomp()) // last: it depends on the capabilities
	return opts, nil
}

// argv is the entrypoint, the flag's or the image's, and then the arguments.
func (r runFlags) argv(img client.ImageDetail, hasEntrypoint bool, args []string) []string {
	switch {
	case !hasEntrypoint && len(args) == 0:
		return slices.Concat(img.Config.Config.Entrypoint, img.Config.Config.Cmd)
	case !hasEntrypoint:
		return slices.Concat(img.Config.Config.Entrypoint, args)
	case r.entrypoint == "":
		return args
	default:
		return append([]string{r.entrypoint}, args...)
	}
}

func (r runFlags) environment() ([]string, error) {
	var env []string
	for _, file := range r.envFiles {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("--env-file: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				env = append(env, line)
			}
		}
	}
	env = append(env, r.env...)
	for i, e := range env {
		if !strings.Contains(e, "=") {
			if v, ok := os.LookupEnv(e); ok {
				env[i] = e + "=" + v
			}
		}
	}
	return env, nil
}

// hostFiles are the host's own resolver and names, for a container in the host's network.
func hostFiles() []specs.Mount {
	var mounts []specs.Mount
	for _, f := range []string{"/etc/resolv.conf", "/etc/hosts"} {
		if _, err := os.Stat(f); err == nil && runtime.GOOS == "linux" {
			mounts = append(mounts, specs.Mount{Type: "bind", Source: f, Destination: f, Options: []string{"rbind", "ro"}})
		}
	}
	return mounts
}

// logFor chooses the file of a container's output below the daemon's root and notes it in the labels.
func logFor(ctx context.Context, c *client.Client, id string, labels map[string]string) (string, error) {
	info, err := c.Info(ctx)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(info.Root, "logs", c.Namespace())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("cannot make the directory of logs: %w", err)
	}
	labels[client.LabelLog] = filepath.Join(dir, id+".log")
	return logURI(labels[client.LabelLog]), nil
}

func keyValues(in []string) (map[string]string, error) {
	out := map[string]string{}
	for _, kv := range in {
		k, v, _ := strings.Cut(kv, "=")
		if k == "" {
			return nil, fmt.Errorf("label %q has no key", kv)
		}
		out[k] = v
	}
	return out, nil
}

// newID makes up an id of 12 hexadecimal digits.
func newID() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}
