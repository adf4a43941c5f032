package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/sys/signal"
	"github.com/spf13/cobra"

	"github.com/slipwayd/slipway/client"
)

type containerRow struct {
	ID      string            `json:"id"`
	Image   string            `json:"image"`
	Command []string          `json:"command,omitempty"`
	Created time.Time         `json:"created"`
	State   string            `json:"state"` // created, running, paused, stopped
	Pid     uint32            `json:"pid,omitempty"`
	Exit    *uint32           `json:"exitCode,omitempty"`
	ExitAt  time.Time         `json:"exitedAt,omitzero"`
	OOM     bool              `json:"oomKilled,omitempty"` // the kernel killed something in it for lack of memory
	Labels  map[string]string `json:"labels,omitempty"`
}

func (r containerRow) status() string {
	switch r.State {
	case "stopped":
		status := fmt.Sprintf("Exited (%d) %s", *r.Exit, ago(r.ExitAt))
		if r.OOM {
			status += ", out of memory"
		}
		return status
	case "running":
		return "Up " + units.HumanDuration(time.Since(r.Created))
	default:
		return strings.ToUpper(r.State[:1]) + r.State[1:]
	}
}

func (a *app) psCmd() *cobra.Command {
	var f format
	var all, quiet bool
	cmd := &cobra.Command{
		Use: "ps", Short: "List containers", Args: cobra.NoArgs,
		Example: `  slipway ps -a
  slipway ps -q | xargs -r slipway stop`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error {
				rows, err := containerRows(cmd.Context(), c, all)
				if err != nil {
					return err
				}
				if quiet {
					for _, r := range rows {
						fmt.Fprintln(a.out, r.ID)
					}
					return nil
				}
				return list(a.out, f, rows, []string{"CONTAINER", "IMAGE", "COMMAND", "CREATED", "STATUS"}, func(r containerRow) []string {
					return []string{r.ID, r.Image, strconv.Quote(short(strings.Join(r.Command, " "), 30)), ago(r.Created), r.status()}
				})
			})
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also those that do not run")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print ids only")
	return cmd
}

func containerRows(ctx context.Context, c *client.Client, all bool) ([]containerRow, error) {
	containers, err := c.Containers(ctx)
	if err != nil {
		return nil, err
	}
	statuses, err := c.Statuses(ctx)
	if err != nil {
		return nil, err
	}
	var rows []containerRow
	for _, ct := range containers {
		st, ok := statuses[ct.ID]
		if !ok {
			st.State = "created"
		}
		if !all && st.State != "running" && st.State != "paused" {
			continue
		}
		r := containerRow{ID: ct.ID, Image: ct.Image, Created: ct.CreatedAt, State: st.State, Pid: st.Pid, OOM: st.OOMKilled, Labels: ct.Labels}
		if ct.Spec != nil && ct.Spec.Process != nil {
			r.Command = ct.Spec.Process.Args
		}
		if st.State == "stopped" {
			r.Exit, r.ExitAt, r.Pid = &st.Exit.Code, st.Exit.At, 0
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func (a *app) stopCmd() *cobra.Command {
	var grace int
	cmd := &cobra.Command{
		Use: "stop CONTAINER...", Short: "Ask containers to end, and kill those that do not", Args: cobra.MinimumNArgs(1),
		Example: "  slipway stop --time 30 web db",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				return a.each(args, func(id string) error {
					return stop(cmd.Context(), c, id, time.Duration(grace)*time.Second)
				})
			})
		},
	}
	cmd.Flags().IntVarP(&grace, "time", "t", 10, "seconds to wait before killing")
	return cmd
}

// stop sends the image's stop signal, waits and kills. A container that does not run is stopped already.
func stop(ctx context.Context, c *client.Client, id string, grace time.Duration) error {
	ct, task, err := running(ctx, c, id)
	if err != nil || task == nil {
		return err
	}
	sig := signal.SignalMap["TERM"]
	if s := ct.Labels[client.LabelStopSignal]; s != "" {
		if sig, err = signal.ParseSignal(s); err != nil {
			return fmt.Errorf("the image's stop signal: %w", err)
		}
	}
	for _, try := range []struct {
		sig  uint32
		wait time.Duration
	}{{uint32(sig), grace}, {uint32(signal.SignalMap["KILL"]), 10 * time.Second}} {
		if err := task.Kill(ctx, try.sig, false); errdefs.IsNotFound(err) {
			return nil
		} else if err != nil {
			return err
		}
		within, cancel := context.WithTimeout(ctx, try.wait)
		_, err = task.Wait(within)
		cancel()
		if err == nil || errdefs.IsNotFound(err) {
			return nil // NotFound: somebody deleted it when it had ended
		}
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) && !errdefs.IsDeadlineExceeded(err) {
			return err
		}
	}
	return fmt.Errorf("it does not die, even of SIGKILL: a process in it may hang in the kernel (see /proc/%d/stack): %w", task.Pid, context.DeadlineExceeded)
}

// running answers a container and its task; a nil task when it has none or it has ended.
func running(ctx context.Context, c *client.Client, id string) (*client.Container, *client.Task, error) {
	ct, err := c.Container(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	task, err := ct.Task(ctx)
	if errdefs.IsNotFound(err) {
		return ct, nil, nil
	} else if err != nil {
		return ct, nil, err
	}
	st, err := task.Status(ctx)
	if err != nil || st.State == "stopped" {
		return ct, nil, err
	}
	return ct, task, nil
}

func (a *app) killCmd() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "kill CONTAINER...", Short: "Send a signal to containers", Args: cobra.MinimumNArgs(1),
		Example: "  slipway kill --signal HUP web    # to its first process; without --signal that is killed",
		RunE: func(cmd *cobra.Command, args []string) error {
			sig, err := signal.ParseSignal(name)
			if err != nil {
				return err
			}
			return a.with(func(c *client.Client) error {
				return a.each(args, func(id string) error {
					_, task, err := running(cmd.Context(), c, id)
					if err == nil && task == nil {
						err = fmt.Errorf("it is not running: %w", errdefs.ErrFailedPrecondition)
					}
					if err != nil {
						return err
					}
					return task.Kill(cmd.Context(), uint32(sig), false)
				})
			})
		},
	}
	cmd.Flags().StringVarP(&name, "signal", "s", "KILL", "name or number")
	return cmd
}

func (a *app) rmCmd() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "rm CONTAINER...", Short: "Delete containers that do not run, with their files and logs", Args: cobra.MinimumNArgs(1),
		Example: `  slipway rm web
  slipway rm --force web    # also when it runs`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				return a.each(args, func(id string) error {
					err := remove(cmd.Context(), c, id, force)
					if force && errdefs.IsNotFound(err) {
						return nil
					}
					return err
				})
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill what runs; what is not there is no error")
	return cmd
}

// remove deletes task, record, snapshot and log of a container.
func remove(ctx context.Context, c *client.Client, id string, force bool) error {
	ct, task, err := running(ctx, c, id)
	if err != nil {
		return err
	}
	if task != nil {
		if !force {
			return fmt.Errorf("it is running: stop it first or use --force: %w", errdefs.ErrFailedPrecondition)
		}
		if err := task.Kill(ctx, uint32(signal.SignalMap["KILL"]), true); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		if _, err := task.Wait(ctx); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	if err := ct.Remove(ctx); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if path := ct.Labels[client.LabelLog]; path != "" {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot remove its log: %w", err)
		}
	}
	return nil
}
