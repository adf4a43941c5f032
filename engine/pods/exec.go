package pods

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/internal/oneshot"
	"github.com/slipwayd/slipway/shim"
)

// maxOutput is how much of each stream ExecSync answers; CRI's ExecSyncResponse sets it.
const maxOutput = 16 << 20

// ExecResult is what a command left.
type ExecResult struct {
	Stdout, Stderr []byte
	ExitCode       int32
}

// ExecSync runs a command in a container and answers its output, at most 16 MiB of each stream. After timeout, if that is not 0, the command is
// killed with all that it began, and the error is DeadlineExceeded. What a command leaves running in the background is not waited for.
func (m *Manager) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (ExecResult, error) {
	c, err := m.running(id)
	if err != nil {
		return ExecResult{}, err
	}
	dir, err := os.MkdirTemp(m.dir(c.pod.id), "exec-")
	if err != nil {
		return ExecResult{}, fmt.Errorf("cannot make a place for the command's output: %w", err)
	}
	defer os.RemoveAll(dir)
	s := shim.Streams{Stdout: oneshot.Name(dir, "stdout"), Stderr: oneshot.Name(dir, "stderr")}
	stdout, err := oneshot.NewOutput(s.Stdout, maxOutput)
	if err != nil {
		return ExecResult{}, err
	}
	defer stdout.Close()
	stderr, err := oneshot.NewOutput(s.Stderr, maxOutput)
	if err != nil {
		return ExecResult{}, err
	}
	defer stderr.Close()
	exit, err := m.execute(ctx, c, execution{id: "sync-" + rand.Text(), cmd: cmd, streams: s, timeout: timeout})
	if err != nil {
		return ExecResult{}, fmt.Errorf("cannot execute %.200q in container %s: %w", cmd, c.id, err)
	}
	r := ExecResult{ExitCode: int32(exit.Status)}
	var oerr, eerr error
	r.Stdout, oerr = stdout.Drain()
	r.Stderr, eerr = stderr.Drain()
	return r, errors.Join(oerr, eerr)
}

// execution is one command to be executed.
type execution struct {
	id      string
	cmd     []string
	streams shim.Streams
	timeout time.Duration // 0 for none
	begun   func()        // called once it runs; may be nil
}

// execute runs a command to its end, or to that of ctx or its timeout, after which nothing of it is left.
func (m *Manager) execute(ctx context.Context, c *container, x execution) (exit shim.Exit, err error) {
	process, err := m.Process(ctx, c.id, x.cmd, x.streams.Terminal)
	if err != nil {
		return exit, err
	}
	tasks := m.e.Tasks()
	if err := tasks.Exec(ctx, Namespace, c.id, shim.ExecOptions{ExecID: x.id, Spec: process, Streams: x.streams}); err != nil {
		return exit, err
	}
	defer func() {
		ctx, cancel := undoing(ctx)
		defer cancel()
		if _, derr := tasks.Delete(ctx, Namespace, c.id, x.id); derr != nil && !errdefs.IsNotFound(derr) {
			m.conf.Log.Warn("cannot delete an executed process; it goes with its container", "container", c.id, "exec", x.id, "err", derr)
		}
	}()
	pid, err := tasks.Start(ctx, Namespace, c.id, x.id)
	if err != nil {
		return exit, err
	}
	if x.begun != nil {
		x.begun()
	}
	limited := ctx
	if x.timeout > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, x.timeout)
		defer cancel()
	}
	if exit, err = tasks.Wait(limited, Namespace, c.id, x.id); err == nil || limited.Err() == nil {
		return exit, err
	}
	after, cancel := undoing(ctx)
	defer cancel()
	if err := m.endExec(after, c, x.id, int(pid)); err != nil {
		m.conf.Log.Warn("cannot kill a command that took too long", "container", c.id, "exec", x.id, "err", err)
	}
	if x.timeout > 0 && ctx.Err() == nil {
		return exit, fmt.Errorf("it did not end within %s and was killed: %w", x.timeout, context.DeadlineExceeded)
	}
	return exit, ctx.Err()
}

// endExec kills an executed process with what it began.
func (m *Manager) endExec(ctx context.Context, c *container, execID string, pid int) error {
	// While it has not been deleted the pid is its own.
	terr := oneshot.KillTree(pid)
	err := m.e.Tasks().Kill(ctx, Namespace, c.id, execID, sigKill, false)
	if errdefs.IsNotFound(err) {
		err = nil
	}
	if err != nil {
		return errors.Join(terr, err)
	}
	_, err = m.e.Tasks().Wait(ctx, Namespace, c.id, execID)
	return err
}

// Process is the runtime-spec process object of a command that is executed in a container: the container's own process with another
// command.
func (m *Manager) Process(ctx context.Context, id string, cmd []string, tty bool) (json.RawMessage, error) {
	if len(cmd) == 0 || cmd[0] == "" {
		return nil, fmt.Errorf("there is no command to execute: %w", errdefs.ErrInvalidArgument)
	}
	record, err := m.e.GetContainer(ctx, Namespace, id)
	if err != nil {
		return nil, err
	}
	var doc struct{ Process *specs.Process }
	if err := json.Unmarshal(record.Spec.Value, &doc); err != nil || doc.Process == nil {
		return nil, fmt.Errorf("the document of container %s has no process: %w", id, errdefs.ErrDataLoss)
	}
	doc.Process.Args, doc.Process.CommandLine, doc.Process.Terminal = cmd, "", tty
	if tty {
		doc.Process.Env = append(doc.Process.Env, "TERM=xterm")
	}
	return json.Marshal(doc.Process)
}

// Document is the runtime-spec document of a container.
func (m *Manager) Document(ctx context.Context, id string) (json.RawMessage, error) {
	record, err := m.e.GetContainer(ctx, Namespace, id)
	if err != nil {
		return nil, err
	}
	return record.Spec.Value, nil
}
