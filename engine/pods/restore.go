package pods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/slipwayd/slipway/internal/sandbox"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/shim"
	"github.com/slipwayd/slipway/spec"
)

// restoreParallel is how many leftovers are cleared away side by side.
const restoreParallel = 8

// Restore finds the pods of the last daemon, records what ended meanwhile, and clears away what that one was in the middle of. It follows
// the engine's Start.
func (m *Manager) Restore(ctx context.Context) error {
	sandboxes, err := m.e.ListSandboxes(ctx, Namespace)
	if err != nil {
		return fmt.Errorf("cannot list pods: %w", err)
	}
	records, err := m.e.ListContainers(ctx, Namespace)
	if err != nil {
		return fmt.Errorf("cannot list containers of pods: %w", err)
	}
	m.mu.Lock()
	for _, s := range sandboxes {
		m.restorePod(s)
	}
	orphans := m.restoreContainers(records)
	m.mu.Unlock()
	var group errgroup.Group
	group.SetLimit(restoreParallel)
	for _, c := range orphans {
		group.Go(func() error {
			m.removeOrphan(ctx, c)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, c := range m.all() {
		m.catchUp(ctx, c)
	}
	m.removeUnrestored(ctx)
	err = errors.Join(m.restoreCheckpoints(), m.clearDirectories(ctx), m.clearLeases(ctx), m.clearDeclared(), m.clearLooks(ctx))
	m.collectNetwork(ctx)
	return err
}

// collectTimeout bounds it: pods run without.
const collectTimeout = 20 * time.Second

// collectNetwork comes before any pod can be attached, which would not be on the list.
func (m *Manager) collectNetwork(ctx context.Context) {
	if !m.conf.CollectNetwork || m.conf.Network == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, collectTimeout)
	defer cancel()
	m.mu.Lock()
	var live []string
	for id, p := range m.pods {
		if !p.record.Stopped {
			live = append(live, id)
		}
	}
	m.mu.Unlock()
	if err := m.conf.Network.Collect(ctx, live); err != nil {
		m.conf.Log.Warn("plugins cannot free what the network holds for pods that are gone", "err", err)
	}
}

// clearLeases releases images that were volumes of pods which are gone, or ended with the last boot.
func (m *Manager) clearLeases(ctx context.Context) error {
	leases, err := m.e.ListLeases(ctx, Namespace)
	if err != nil {
		return fmt.Errorf("cannot list the leases of pods: %w", err)
	}
	for _, l := range leases {
		id, ok := strings.CutPrefix(l.ID, leaseOf(""))
		if p, err := m.Pod(id); !ok || err == nil && p.Ready {
			continue
		}
		if err := m.e.DeleteLease(ctx, Namespace, l.ID, false); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("cannot release the volumes of pod %s: %w", id, err)
		}
	}
	return nil
}

// restorePod needs m.mu. Sandboxes of other clients have no extension of ours, and are left alone.
func (m *Manager) restorePod(s metadata.Sandbox) {
	p := &pod{id: s.ID, created: s.CreatedAt, containers: map[string]*container{}}
	if err := decodeExtension(s.Extensions, podExtension, &p.record); err != nil || p.record.Spec == nil {
		if !errdefs.IsNotFound(err) {
			m.conf.Log.Error("cannot read the record of a pod; it is left alone", "pod", s.ID, "err", err)
		}
		return
	}
	var err error
	if p.runtime, err = m.runtime(p.record.Spec.Handler); err != nil {
		m.conf.Log.Warn("a pod's runtime class is configured no more", "pod", s.ID, "err", err)
		p.runtime = Runtime{Snapshotter: m.e.DefaultDriver()}
	}
	p.runtime.Name, p.runtime.Options = s.Runtime.Name, s.Runtime.Options
	p.runtime.Foreign = p.runtime.Foreign || p.record.Spec.HostProcess()
	p.record.Held = false
	p.ready = !p.record.Stopped && m.sys.alive(p)
	p.stopping = p.record.Stopped
	m.insertPod(p)
}

// restoreContainers needs m.mu. It answers those that belong to no pod any more.
func (m *Manager) restoreContainers(records []metadata.Container) (orphans []metadata.Container) {
	for _, r := range records {
		p := m.pods[r.SandboxID]
		switch kind := r.Labels[labelKind]; {
		case kind != kindContainer && kind != kindSandbox || r.SandboxID == "":
			continue // another client's
		case p == nil:
			orphans = append(orphans, r)
			continue
		case kind == kindSandbox:
			if !m.restoreHolder(p) {
				orphans = append(orphans, r)
			}
			continue
		}
		c := &container{id: r.ID, pod: p, created: r.CreatedAt, image: r.Image, done: make(chan struct{})}
		if err := decodeExtension(r.Extensions, containerExtension, &c.record); err != nil || c.record.Spec == nil {
			m.conf.Log.Error("cannot read the record of a container; it is removed", "container", r.ID, "err", err)
			orphans = append(orphans, r)
			continue
		}
		m.insertContainer(c)
	}
	return orphans
}

// restoreHolder needs m.mu. A pod whose holder died is not ready. False for a holder that was being started: nobody got an answer, and
// the next container that needs one has another started.
func (m *Manager) restoreHolder(p *pod) bool {
	if !sandbox.Alive(m.dir(p.id), sandbox.PID) {
		return !p.ready
	}
	st, err := m.e.Tasks().State(m.life, Namespace, p.id, "")
	p.record.Held = err == nil && st.Status == shim.Running
	p.ready = p.ready && p.record.Held
	return true
}

// all are the containers in the table.
func (m *Manager) all() []*container {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]*container, 0, len(m.containers))
	for _, c := range m.containers {
		list = append(list, c)
	}
	return list
}

// catchUp finds out how a container is.
func (m *Manager) catchUp(ctx context.Context, c *container) {
	c.life.Lock()
	defer c.life.Unlock()
	st, err := m.e.Tasks().State(ctx, Namespace, c.id, "")
	if err == nil && st.Status == shim.Created {
		// Its Start was cut off, and kubelet begins again: it is as it was before.
		err = m.deleteTask(ctx, c.id)
		if err == nil {
			err = errdefs.ErrNotFound
		}
	}
	m.mu.Lock()
	status := c.record.Status
	switch {
	case !status.Finished.IsZero():
		c.state = Exited
		close(c.done)
	case err == nil && st.Status != shim.Unknown:
		c.state, c.pid = Running, st.Pid
		if status.Started.IsZero() { // recorded soon after, but not soon enough
			c.record.Status.Started = m.stamped(c)
		}
	case !status.Started.IsZero():
		c.state = Running // until ended says otherwise: the host was started anew
	}
	running := c.state == Running
	m.mu.Unlock()
	switch {
	case running && (err != nil || st.Status == shim.Stopped):
		m.background(func(ctx context.Context) { m.ended(context.WithoutCancel(ctx), c) })
	case !running && err == nil:
		if err := m.deleteTask(ctx, c.id); err != nil {
			m.conf.Log.Warn("cannot delete the task of a container that has ended", "container", c.id, "err", err)
		}
	}
}

// removeOrphan removes a container that a pod which was being made, or removed, left.
func (m *Manager) removeOrphan(ctx context.Context, c metadata.Container) {
	err := m.deleteTask(ctx, c.ID)
	if err == nil {
		err = m.e.RemoveContainer(ctx, Namespace, c)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		m.conf.Log.Warn("cannot remove a container whose pod is gone", "container", c.ID, "err", err)
	}
}

// clearDirectories takes down pods that have a directory and no record: they were being made.
func (m *Manager) clearDirectories(ctx context.Context) error {
	entries, err := os.ReadDir(m.dir(""))
	if err != nil {
		return fmt.Errorf("cannot list the directories of pods: %w", err)
	}
	for _, entry := range entries {
		m.mu.Lock()
		p := m.pods[entry.Name()]
		m.mu.Unlock()
		if p != nil {
			m.clearExecs(p.id)
			continue
		}
		p = &pod{id: entry.Name(), record: podRecord{Spec: &spec.Pod{Security: spec.PodSecurity{Namespaces: spec.Namespaces{Network: spec.ModeNode}}}}}
		data, err := os.ReadFile(filepath.Join(m.dir(p.id), podFile))
		if err == nil {
			err = json.Unmarshal(data, &p.record)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			m.conf.Log.Warn("cannot read what a pod was to be; its addresses, if it got any, stay taken", "pod", p.id, "err", err)
		}
		if err := m.dismantle(ctx, p); err != nil {
			m.conf.Log.Warn("cannot remove what is left of a pod that was being made; trying again at the next start", "pod", p.id, "err", err)
		}
	}
	return nil
}

// clearExecs removes the places of output that nobody reads any more.
func (m *Manager) clearExecs(podID string) {
	entries, _ := os.ReadDir(m.dir(podID))
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "exec-") {
			_ = os.RemoveAll(filepath.Join(m.dir(podID), e.Name()))
		}
	}
}
