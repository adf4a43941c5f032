package pods

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/internal/oneshot"
	"github.com/slipwayd/slipway/nri"
	"github.com/slipwayd/slipway/shim"
)

// Reasons that a container's status gives, as kubelet and its users know them from other runtimes.
const (
	reasonCompleted = "Completed"
	reasonError     = "Error"
	reasonOOM       = "OOMKilled"
	reasonStart     = "StartError"
	reasonUnknown   = "Unknown"
)

// exitNotStarted is the exit code of what never ran; exitUnknown of what nobody saw ending.
const (
	exitNotStarted = 128
	exitUnknown    = 255
)

// Start runs a container that was created. A call whose caller gives up goes on, and a repeated one joins it. When it fails, the
// container has exited with reason StartError.
func (m *Manager) Start(ctx context.Context, id string) error {
	c, err := m.container(id)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("start container %s of pod %s/%s", c.record.Spec.Name, c.pod.record.Spec.Namespace, c.pod.record.Spec.Name)
	_, err = m.once(ctx, "start/"+c.id, what, "", func(ctx context.Context, k *making) (string, error) {
		_, release, err := m.hold(c.pod.id)
		if err != nil {
			return "", err
		}
		defer release()
		return "", m.start(ctx, c, k)
	})
	return err
}

// start asks plugins while c.life is free: one may want to change the container's limits before it answers.
func (m *Manager) start(ctx context.Context, c *container, k *making) error {
	k.at("telling plugins of it")
	refusal := error(nil)
	if m.state(c) == Created {
		refusal = m.tell(ctx, nri.StartContainer, c.pod, c)
	}
	k.at("waiting for its turn")
	if err := m.runCreated(ctx, c, k, refusal); err != nil {
		return err
	}
	m.mention(ctx, nri.ContainerStarted, c.pod, c)
	return nil
}

// runCreated runs a container, unless a plugin refused.
func (m *Manager) runCreated(ctx context.Context, c *container, k *making, refusal error) error {
	c.life.Lock()
	defer c.life.Unlock()
	if m.state(c) != Created {
		return fmt.Errorf("it was started before: %w", errdefs.ErrFailedPrecondition)
	}
	pid, err := uint32(0), refusal
	if err == nil {
		pid, err = m.launch(ctx, c, k)
	}
	if err != nil {
		ctx, cancel := undoing(ctx)
		defer cancel()
		if derr := m.deleteTask(ctx, c.id); derr != nil {
			m.conf.Log.Warn("cannot remove what is left of a container that did not start", "container", c.id, "err", derr)
		}
		at := now()
		m.finish(ctx, c, containerStatus{Started: at, Finished: at, ExitCode: exitNotStarted, Reason: reasonStart, Message: err.Error()})
		return err
	}
	at := now()
	m.stamp(c, at)
	m.mu.Lock()
	c.state, c.pid = Running, pid
	c.record.Status.Started = at
	m.mu.Unlock()
	m.notify(c, ContainerStarted)
	m.background(func(ctx context.Context) { // kubelet need not wait for a disk: that it runs is the shim's to know
		if err := m.save(context.WithoutCancel(ctx), c); err != nil && !errdefs.IsNotFound(err) {
			m.conf.Log.Warn("cannot record when a container started", "container", c.id, "err", err)
		}
	})
	return nil
}

func (m *Manager) launch(ctx context.Context, c *container, k *making) (uint32, error) {
	k.at("opening its streams")
	streams, err := m.streams(c)
	if err != nil {
		return 0, err
	}
	k.at("setting up its processes")
	if _, err := m.e.CreateTask(ctx, scope, engine.TaskOptions{ContainerID: c.id, Streams: streams, CheckpointPath: c.record.Checkpoint}); err != nil {
		return 0, err
	}
	k.at("executing its command")
	return m.e.Tasks().Start(ctx, Namespace, c.id, "")
}

// streams has the shim write the container's log. Where nobody wants one the output is dropped, but clients can still attach to it.
func (m *Manager) streams(c *container) (shim.Streams, error) {
	s := shim.Streams{Terminal: c.record.Spec.TTY}
	path := m.sys.nowhere()
	if c.record.LogPath != "" {
		path = c.record.LogPath
	}
	log := url.URL{Scheme: "file", Path: urlPath(path), RawQuery: "format=cri"}
	if c.pod.runtime.Foreign { // then a program of ours writes it
		log = url.URL{Scheme: "binary", Path: urlPath(m.conf.Holder), RawQuery: "log=" + url.QueryEscape(path)}
	}
	s.Stdout = log.String()
	if !s.Terminal {
		s.Stderr = s.Stdout
	}
	if c.record.Spec.Stdin {
		var err error
		if s.Stdin, err = oneshot.MakeInlet(m.stdin(c)); err != nil {
			return s, err
		}
	}
	return s, nil
}

// urlPath is a file's path as URLs have it: C:\dir is /C:/dir.
func urlPath(path string) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return path
}

// stdin is where attached clients write a container's input.
func (m *Manager) stdin(c *container) string {
	return filepath.Join(m.dir(c.pod.id), "stdin-"+c.id)
}

// successorWait is how long a shim's successor may take to answer.
const successorWait = 10 * time.Second

// persist repeats fn, which may be repeated, while the shim that it needs has died and another is on its way.
func persist(ctx context.Context, fn func() error) error {
	ctx, cancel := context.WithTimeout(ctx, successorWait)
	defer cancel()
	for {
		err := fn()
		if !errdefs.IsUnavailable(err) {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// deleteTask kills and deletes a task, if there is one.
func (m *Manager) deleteTask(ctx context.Context, id string) error {
	return persist(ctx, func() error { return m.tryDeleteTask(ctx, id) })
}

func (m *Manager) tryDeleteTask(ctx context.Context, id string) error {
	tasks := m.e.Tasks()
	st, err := tasks.State(ctx, Namespace, id, "")
	if errdefs.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	if st.Status == shim.Created || st.Status == shim.Stopped {
		_, err := tasks.Delete(ctx, Namespace, id, "")
		if !errdefs.IsFailedPrecondition(err) {
			return ignoreNotFound(err)
		}
		// It runs after all: the shim died before it could tell that it had started it.
	}
	if err := tasks.Kill(ctx, Namespace, id, "", sigKill, true); ignoreNotFound(err) != nil {
		return err
	}
	if _, err := tasks.Wait(ctx, Namespace, id, ""); ignoreNotFound(err) != nil {
		return err
	}
	_, err = tasks.Delete(ctx, Namespace, id, "")
	return ignoreNotFound(err)
}

func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// taskEvent learns from the engine of ends, and of kernels that ran out of memory. It waits for nothing.
func (m *Manager) taskEvent(ev engine.Event) {
	id := m.e.EventField(ev, "container_id")
	m.mu.Lock()
	defer m.mu.Unlock()
	c, p := m.containers[id], m.pods[id]
	switch ev.Topic {
	case "/tasks/oom":
		if c != nil {
			c.oom = true
		}
	case "/tasks/exit":
		if process := m.e.EventField(ev, "id"); process != "" && process != id {
			return
		}
		if c != nil {
			m.background(func(ctx context.Context) { m.ended(context.WithoutCancel(ctx), c) })
		}
		if p != nil && p.ready && p.record.Held && !p.stopping { // not Held: one that is being started, or taken back
			p.ready = false
			m.background(func(context.Context) {
				m.conf.Log.Warn("the process that holds a pod has ended; the pod is not ready any more", "pod", p.id)
			})
		}
	}
}

// ended records how a container's init ended, and only then lets the shim forget it.
func (m *Manager) ended(ctx context.Context, c *container) {
	c.life.Lock()
	defer c.life.Unlock()
	if m.state(c) != Running {
		return
	}
	st, err := m.e.Tasks().State(ctx, Namespace, c.id, "")
	if err == nil && st.Status != shim.Stopped {
		return
	}
	m.mu.Lock()
	status := c.record.Status
	oom := c.oom
	m.mu.Unlock()
	if err != nil {
		status.Finished, status.ExitCode, status.Reason = now(), exitUnknown, reasonUnknown
	} else {
		status.Finished, status.ExitCode = st.ExitedAt.UTC(), int32(st.ExitStatus)
		switch {
		case oom && st.ExitStatus != 0:
			status.Reason = reasonOOM
		case st.ExitStatus == 0:
			status.Reason = reasonCompleted
		default:
			status.Reason = reasonError
		}
	}
	m.finish(ctx, c, status)
	if err := m.deleteTask(ctx, c.id); err != nil {
		m.conf.Log.Warn("cannot delete the task of a container that has ended; it goes with the container", "container", c.id, "err", err)
	}
}

// finish needs c.life. Whoever sees that the container has exited may go on at once and end its pod, so it is told in the same moment.
func (m *Manager) finish(ctx context.Context, c *container, status containerStatus) {
	m.mu.Lock()
	c.state, c.pid = Exited, 0
	c.record.Status = status
	m.notify(c, ContainerStopped)
	m.mu.Unlock()
	if err := m.save(ctx, c); err != nil && !errdefs.IsNotFound(err) {
		m.conf.Log.Error("cannot record how a container ended; after a restart of the daemon its status will not be known", "container", c.id, "err", err)
	}
	m.tellStopped(ctx, c)
	close(c.done)
}

func (m *Manager) state(c *container) State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return c.state
}

// container finds one for a verb.
func (m *Manager) container(id string) (*container, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return find(m.containers, "container", id)
}

// running is container, and FailedPrecondition when it does not run.
func (m *Manager) running(id string) (*container, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, err := find(m.containers, "container", id)
	if err == nil && c.state != Running {
		err = fmt.Errorf("container %s is not running: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	return c, err
}

// stamp keeps when a container started for a daemon that comes before the record is written. It is as short-lived as the container.
func (m *Manager) stamp(c *container, at time.Time) {
	if err := os.WriteFile(m.stampPath(c), []byte(at.Format(time.RFC3339Nano)), 0o600); err != nil {
		m.conf.Log.Warn("cannot note when a container started", "container", c.id, "err", err)
	}
}

func (m *Manager) stampPath(c *container) string {
	return filepath.Join(m.dir(c.pod.id), "started-"+c.id)
}

// stamped is the time that stamp noted, or else now.
func (m *Manager) stamped(c *container) time.Time {
	text, err := os.ReadFile(m.stampPath(c))
	if err != nil {
		return now()
	}
	at, err := time.Parse(time.RFC3339Nano, string(text))
	if err != nil {
		return now()
	}
	return at
}

// removeFiles removes what a container has in its pod's directory.
func (m *Manager) removeFiles(c *container) error {
	for _, path := range []string{m.stdin(c), m.stampPath(c)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot remove a file of the container: %w", err)
		}
	}
	return nil
}
