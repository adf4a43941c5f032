package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/slipwayd/slipway/client"
)

func (a *app) checkpointCmd() *cobra.Command {
	var exit bool
	cmd := &cobra.Command{
		Use: "checkpoint CONTAINER DIRECTORY", Short: "Write what a container is at this moment, with CRIU", Args: cobra.ExactArgs(2),
		Example: `  slipway checkpoint --exit web /srv/web    # and slipway restore web /srv/web goes on from there
  slipway checkpoint web /srv/web           # which goes on meanwhile`,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[1])
			if err != nil {
				return err
			}
			return a.with(func(c *client.Client) error {
				_, task, err := running(cmd.Context(), c, args[0])
				if err == nil && task == nil {
					err = fmt.Errorf("container %s is not running: %w", args[0], errdefs.ErrFailedPrecondition)
				}
				if err != nil {
					return err
				}
				return task.Checkpoint(cmd.Context(), dir, exit)
			})
		},
	}
	cmd.Flags().BoolVar(&exit, "exit", false, "end the container")
	return cmd
}

func (a *app) restoreCmd() *cobra.Command {
	return &cobra.Command{
		Use: "restore CONTAINER DIRECTORY", Short: "Have a container that has ended go on from a checkpoint, in the background", Args: cobra.ExactArgs(2),
		Example: "  slipway restore web /srv/web    # its files are as it left them: restore what slipway checkpoint --exit wrote",
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[1])
			if err != nil {
				return err
			}
			return a.with(func(c *client.Client) error {
				if err := restore(cmd.Context(), c, args[0], dir); err != nil {
					return err
				}
				fmt.Fprintln(a.out, args[0])
				return nil
			})
		},
	}
}

// restore replaces the task that has ended. Nothing is left of the new one when it does not start.
func restore(ctx context.Context, c *client.Client, id, dir string) error {
	ct, task, err := running(ctx, c, id)
	if err != nil {
		return err
	}
	if task != nil {
		return fmt.Errorf("container %s is running; end it first: %w", id, errdefs.ErrFailedPrecondition)
	}
	if task, err = ct.Task(ctx); err == nil {
		_, err = task.Delete(ctx)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	var streams client.Streams
	if log := ct.Labels[client.LabelLog]; log != "" {
		streams.LogURI = logURI(log)
	}
	if task, err = ct.RestoreTask(ctx, streams, dir); err != nil {
		return err
	}
	if err := task.Start(ctx); err != nil {
		cleanup := context.WithoutCancel(ctx)
		_, undo := task.Delete(cleanup)
		return errors.Join(err, undo)
	}
	return nil
}

// logURI is what a shim knows a log file by.
func logURI(path string) string {
	return "file:///" + strings.TrimPrefix(filepath.ToSlash(path), "/") + "?format=cri" // C:/dir has no slash before it
}
