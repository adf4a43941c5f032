package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/shim"
)

// RestartPolicies are those that the daemon keeps, as clients ask for them before they write the labels below.
var RestartPolicies = []string{"no", "always", "on-failure", "unless-stopped"}

// Labels of containers whose tasks the daemon is to start again when they have ended; clients such as nerdctl write them (containerd's
// core/runtime/restart).
const (
	labelRestartStatus  = "containerd.io/restart.status"             // what the task is to be: running or stopped
	labelRestartPolicy  = "containerd.io/restart.policy"             // one of RestartPolicies, on-failure with :N for at most N times; always if empty
	labelRestartCount   = "containerd.io/restart.count"              // how often that was done
	labelRestartLog     = "containerd.io/restart.loguri"             // where the task's output goes
	labelRestartStopped = "containerd.io/restart.explicitly-stopped" // true once a user has stopped it
)

// restartPause is from a task's end to its next start, maxRestartPause what that grows to while it cannot be started.
const (
	restartPause    = 2 * time.Second
	maxRestartPause = time.Minute
)

// restarter starts ended tasks again. It keeps nothing durable but the count: what a crash cuts short the next daemon's begin finds.
type restarter struct {
	e          *Engine
	wake       chan struct{}    // holds a token when a task has ended or a container was changed
	unfinished map[string]ended // tasks that are not there and to be made again, by namespace/id; of begin, and then of run alone
}

// ended is how a task ended, or that it went with the last daemon or the machine.
type ended struct {
	status uint32
	before bool
}

func newRestarter(e *Engine) *restarter {
	return &restarter{e: e, wake: make(chan struct{}, 1), unfinished: map[string]ended{}}
}

// begin finds the containers that had a task before this daemon came. Later one without a task is a client's, which is about to make it.
func (r *restarter) begin(ctx context.Context) {
	err := r.each(ctx, func(ns string, c metadata.Container) {
		if _, err := r.e.tasks.State(ctx, ns, c.ID, ""); errdefs.IsNotFound(err) {
			r.unfinished[ns+"/"+c.ID] = ended{before: true}
		}
	})
	if err != nil {
		r.e.log.Warn("cannot look for containers to restart", "err", err)
	}
}

// each calls fn for the containers that have a restart policy.
func (r *restarter) each(ctx context.Context, fn func(ns string, c metadata.Container)) error {
	namespaces, err := r.e.ListNamespaces(ctx)
	if err != nil {
		return err
	}
	for _, ns := range namespaces {
		marked, err := r.e.ListContainers(ctx, ns.Name, fmt.Sprintf("labels.%q", labelRestartStatus))
		if err != nil {
			return err
		}
		for _, c := range marked {
			fn(ns.Name, c)
		}
	}
	return nil
}

// look asks for a pass.
func (r *restarter) look() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *restarter) run(ctx context.Context) {
	pause := restartPause
	for failed := r.pass(ctx); ; failed = r.pass(ctx) {
		if pause = min(2*pause, maxRestartPause); failed {
			r.look()
		} else {
			pause = restartPause
		}
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// pass brings all tasks to what their containers' labels want, and tells whether one could not be brought there.
func (r *restarter) pass(ctx context.Context) (failed bool) {
	err := r.each(ctx, func(ns string, c metadata.Container) {
		if err := r.settle(ctx, ns, c); err != nil && ctx.Err() == nil {
			failed = true
			r.e.log.Warn("cannot restart a container, will try again", "namespace", ns, "container", c.ID, "err", err)
		}
	})
	if err != nil && ctx.Err() == nil {
		r.e.log.Warn("cannot look for containers to restart, will try again", "err", err)
	}
	return failed || err != nil
}

func (r *restarter) settle(ctx context.Context, ns string, c metadata.Container) error {
	key := ns + "/" + c.ID
	st, err := r.e.tasks.State(ctx, ns, c.ID, "")
	none := errdefs.IsNotFound(err)
	if err != nil && !none {
		return err
	}
	if c.Labels[labelRestartStatus] == "stopped" {
		delete(r.unfinished, key)
		if none || st.Status == shim.Stopped {
			return nil
		}
		return r.e.tasks.Kill(ctx, ns, c.ID, "", 9, true)
	}
	end, unfinished := r.unfinished[key]
	switch {
	case c.Labels[labelRestartStatus] != "running" || !none && st.Status != shim.Stopped:
		delete(r.unfinished, key)
		return nil
	case !none:
		end = ended{status: st.ExitStatus}
	case !unfinished:
		return nil
	}
	if !wantsRestart(c.Labels, end) {
		delete(r.unfinished, key)
		return nil
	}
	if _, err := r.e.tasks.Delete(ctx, ns, c.ID, ""); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	r.unfinished[key] = end
	err = r.start(ctx, ns, c)
	if _, gone := r.e.GetContainer(ctx, ns, c.ID); err != nil && errdefs.IsNotFound(gone) {
		err = nil // removed meanwhile
	}
	if err == nil {
		delete(r.unfinished, key)
	}
	return err
}

// start counts first, so that no more attempts are made than a policy allows.
func (r *restarter) start(ctx context.Context, ns string, c metadata.Container) error {
	count, _ := strconv.Atoi(c.Labels[labelRestartCount])
	counted := metadata.Container{ID: c.ID, Labels: map[string]string{labelRestartCount: strconv.Itoa(count + 1)}}
	if _, err := r.e.UpdateContainer(ctx, ns, counted, "labels."+labelRestartCount); err != nil {
		return err
	}
	log := c.Labels[labelRestartLog]
	streams := shim.Streams{Stdout: log, Stderr: log}
	if hasTerminal(c) && log != "" {
		streams = shim.Streams{Stdout: log, Terminal: true}
	}
	_, err := r.e.CreateTask(ctx, Scope{Namespace: ns}, TaskOptions{ContainerID: c.ID, Streams: streams})
	if errdefs.IsAlreadyExists(err) {
		return nil // a client was faster
	}
	if err != nil {
		return err
	}
	if _, err := r.e.tasks.Start(ctx, ns, c.ID, ""); err != nil {
		_, undo := r.e.tasks.Delete(context.WithoutCancel(ctx), ns, c.ID, "")
		return errors.Join(err, undo)
	}
	return nil
}

// wantsRestart tells by a container's labels whether its task is to run again. What a user stopped stays so, but what is always to run does again
// after the machine was off.
func wantsRestart(labels map[string]string, end ended) bool {
	stopped, _ := strconv.ParseBool(labels[labelRestartStopped])
	policy, most, _ := strings.Cut(labels[labelRestartPolicy], ":")
	switch policy {
	case "", "always":
		return !stopped || end.before
	case "unless-stopped":
		return !stopped
	case "on-failure":
		limit, err := strconv.Atoi(most)
		count, _ := strconv.Atoi(labels[labelRestartCount])
		return !stopped && end.status != 0 && (err != nil || limit <= 0 || count < limit)
	}
	return false
}

// hasTerminal tells whether a container's document (the runtime specification's process.terminal) has its init run on a terminal.
func hasTerminal(c metadata.Container) bool {
	var doc struct{ Process struct{ Terminal bool } }
	return c.Spec != nil && json.Unmarshal(c.Spec.Value, &doc) == nil && doc.Process.Terminal
}
