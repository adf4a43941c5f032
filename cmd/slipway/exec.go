package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/slipwayd/slipway/client"
	"github.com/slipwayd/slipway/spec"
)

// execFlags are those of `slipway exec`.
type execFlags struct {
	interactive, tty, detach bool

	user, workdir string
	env           []string
}

func (a *app) execCmd() *cobra.Command {
	var e execFlags
	cmd := &cobra.Command{
		Use: "exec [flags] CONTAINER COMMAND [ARG...]", Short: "Run one more command in a running container", Args: cobra.MinimumNArgs(2),
		Example: `  slipway exec -it web sh
  slipway exec --user nobody --env DEBUG=1 web env`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				ct, task, err := running(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				if task == nil {
					return fmt.Errorf("container %s is not running: %w", args[0], errdefs.ErrFailedPrecondition)
				}
				if st, err := task.Status(cmd.Context()); err == nil && st.State == "paused" {
					return fmt.Errorf("container %s is paused: %w", args[0], errdefs.ErrFailedPrecondition)
				}
				p, err := e.process(ct, task, args[1:])
				if err != nil {
					return err
				}
				s := client.Streams{Terminal: e.tty}
				if !e.detach {
					s.Stdout, s.Stderr = a.out, a.err
					if e.interactive {
						s.Stdin = a.in
					}
				}
				id := newID()
				if e.detach {
					id = client.DetachedExec + id
				}
				proc, err := task.NewProcess(cmd.Context(), id, p, s)
				if err != nil {
					return err
				}
				if e.detach {
					if err = proc.Start(cmd.Context()); err != nil {
						return discard(cmd.Context(), proc, explainStart(err, ct.ID))
					}
					return nil
				}
				exit, err := a.foreground(cmd.Context(), proc, s)
				var lost *lostSight
				if errors.As(err, &lost) {
					return err
				}
				if err = discard(cmd.Context(), proc, explainStart(err, ct.ID)); err == nil && exit.Code != 0 {
					err = exitCode(exit.Code)
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&e.interactive, "interactive", "i", false, "pass standard input on")
	f.BoolVarP(&e.tty, "tty", "t", false, "give it a terminal")
	f.BoolVarP(&e.detach, "detach", "d", false, "do not wait for it, drop its output")
	f.StringVarP(&e.user, "user", "u", "", "USER[:GROUP] instead of the container's")
	f.StringVarP(&e.workdir, "workdir", "w", "", "working directory instead of the container's")
	f.StringArrayVarP(&e.env, "env", "e", nil, "KEY=VALUE")
	return cmd
}

// discard frees a process, also one that did not start, and answers err or else what that failed with.
func discard(ctx context.Context, p *client.Process, err error) error {
	_, derr := p.Delete(context.WithoutCancel(ctx)) // an interrupt was for the process
	if err == nil && !errdefs.IsNotFound(derr) {
		err = derr
	}
	return err
}

// process is the container's own with another command line.
func (e execFlags) process(ct *client.Container, task *client.Task, args []string) (*specs.Process, error) {
	if ct.Spec == nil || ct.Spec.Process == nil {
		return nil, fmt.Errorf("the spec of %s names no process to take user and environment from: %w", ct.ID, errdefs.ErrFailedPrecondition)
	}
	p := *ct.Spec.Process
	p.Env = slices.Clone(p.Env)
	p.Terminal, p.CommandLine = false, ""
	doc := &specs.Spec{Process: &p, Linux: ct.Spec.Linux}
	opts := []spec.Opt{spec.Args(args...), spec.Env(e.env...)}
	if e.tty {
		opts = append(opts, spec.Terminal())
	}
	if e.workdir != "" {
		opts = append(opts, spec.Cwd(e.workdir))
	}
	if e.user != "" {
		root, err := os.OpenRoot(fmt.Sprintf("/proc/%d/root", task.Pid))
		if err != nil {
			return nil, fmt.Errorf("cannot look user %s up in the container: %w", e.user, err)
		}
		defer root.Close()
		u, err := spec.ResolveUser(root.FS(), e.user)
		if err != nil {
			return nil, err
		}
		opts = append(opts, spec.User(u))
	}
	for _, o := range opts {
		if err := o(doc); err != nil {
			return nil, err
		}
	}
	return &p, nil
}
