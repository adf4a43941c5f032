package pods

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/internal/sandbox"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/shim"
	"github.com/slipwayd/slipway/spec"
	"github.com/slipwayd/slipway/storage"
)

// A holder is a container with the pod's own id whose init does nothing but reap: init of a PID namespace that the pod's containers share. It
// is slipway-shim itself in an otherwise empty root, or the pause image where the configuration wants that.

// holderAdj keeps the holder for longer than any container when memory runs out (as pause processes have it).
const holderAdj = -998

func (m *Manager) wantsHolder(p *pod) bool { return m.conf.Pause || p.runtime.Pause }

// ensureHolder starts the holder if the pod has none; a pod whose containers share no PID namespace never gets that far.
func (m *Manager) ensureHolder(ctx context.Context, p *pod) error {
	_, err := m.once(ctx, "holder/"+p.id, "start the process that holds pod "+p.id, "", func(ctx context.Context, k *making) (string, error) {
		m.mu.Lock()
		held := p.record.Held
		m.mu.Unlock()
		if held {
			return "", nil
		}
		k.at("starting it")
		err := m.startHolder(ctx, p)
		if err != nil {
			ctx, cancel := undoing(ctx)
			defer cancel()
			err = errors.Join(err, m.stopHolder(ctx, p))
		}
		return "", err
	})
	return err
}

func (m *Manager) startHolder(ctx context.Context, p *pod) error {
	c := metadata.Container{
		ID: p.id, SandboxID: p.id, Labels: fits(p.record.Spec.Labels),
		Runtime: metadata.Runtime{Name: p.runtime.Name, Options: p.runtime.Options},
	}
	c.Labels[labelKind] = kindSandbox
	doc, err := m.holderDocument(p)
	if err != nil {
		return err
	}
	rootfs := holderRoot(p.record.Spec.Security.Namespaces.User)
	if m.wantsHolder(p) {
		rootfs = nil
		if err := m.pauseContainer(ctx, p, &c, doc); err != nil {
			return err
		}
	} else {
		if c.Spec, err = encodeSpec(doc); err != nil {
			return err
		}
		if _, err := m.e.CreateContainer(ctx, Namespace, c); err != nil {
			return err
		}
	}
	if _, err := m.e.CreateTask(ctx, scope, engine.TaskOptions{ContainerID: p.id, Rootfs: rootfs}); err != nil {
		return err
	}
	pid, err := m.e.Tasks().Start(ctx, Namespace, p.id, "")
	if err != nil {
		return err
	}
	if err := sandbox.Pin(m.dir(p.id), sandbox.PID, int(pid)); err != nil {
		return err
	}
	m.setHeld(p, true)
	// From here on its end is noticed (taskEvent). It may have come before.
	st, err := m.e.Tasks().State(ctx, Namespace, p.id, "")
	if err == nil && st.Status != shim.Running {
		err = fmt.Errorf("it has ended at once, with exit code %d: %w", st.ExitStatus, errdefs.ErrUnavailable)
	}
	if err != nil {
		m.setHeld(p, false)
	}
	return err
}

func (m *Manager) setHeld(p *pod, held bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p.record.Held = held
}

// holderRoot is an empty file system that belongs to the root of the pod's user namespace.
func holderRoot(u *spec.UserNamespace) []storage.Mount {
	options := []string{"mode=755", "size=64k", "nosuid", "nodev"}
	if u != nil && u.Mode == spec.ModePod {
		options = append(options, fmt.Sprintf("uid=%d", u.UIDs[0].Host), fmt.Sprintf("gid=%d", u.GIDs[0].Host))
	}
	return []storage.Mount{{Type: "tmpfs", Source: "tmpfs", Options: options}}
}

// pauseContainer makes the record of a holder that runs an image.
func (m *Manager) pauseContainer(ctx context.Context, p *pod, c *metadata.Container, doc *specs.Spec) error {
	img, err := m.image(ctx, m.conf.PauseImage, p.runtime.Snapshotter)
	if errdefs.IsNotFound(err) {
		if _, err = m.Pull(ctx, PullOptions{Ref: m.conf.PauseImage, Handler: p.record.Spec.Handler}); err == nil {
			img, err = m.image(ctx, m.conf.PauseImage, p.runtime.Snapshotter)
		}
	}
	if err != nil {
		return fmt.Errorf("the image of the pods' own process ([cri] pause_image): %w", err)
	}
	doc.Process.Args = append(append([]string{}, img.Config.Config.Entrypoint...), img.Config.Config.Cmd...)
	doc.Process.Env = img.Config.Config.Env
	doc.Mounts = doc.Mounts[:len(doc.Mounts)-1] // without the built-in one
	if c.Spec, err = encodeSpec(doc); err != nil {
		return err
	}
	c.Image, c.Snapshotter, c.SnapshotKey = img.Image.Name, p.runtime.Snapshotter, p.id
	_, err = m.e.CreateContainerOn(ctx, scope, *c, img.ChainID, m.sys.snapshotLabels(p, nil))
	return err
}

// holderDocument is a container that may nothing. Its last mount is the program.
func (m *Manager) holderDocument(p *pod) (*specs.Spec, error) {
	privileges := spec.ContainerSecurity{
		DropCapabilities: []string{"ALL"}, NoNewPriv: true, ReadonlyRootfs: true, Unset: true,
		Namespaces: p.record.Spec.Security.Namespaces,
	}
	d := spec.PodDocument{
		PodID: p.id, ID: p.id, Pod: p.record.Spec, Hostname: m.shown(p.record.Spec), Host: m.host, OwnPID: true, Cgroups: m.cgroup(p, p.id),
		Container:  &spec.PodContainer{Command: []string{"/pause", "pause"}, Resources: &spec.Resources{OOMScoreAdj: holderAdj}, Security: privileges},
		Namespaces: map[specs.LinuxNamespaceType]string{},
		Volumes:    []specs.Mount{{Destination: "/pause", Type: "bind", Source: m.conf.Holder, Options: []string{"bind", "ro", "nosuid", "nodev"}}},
	}
	for pin, kind := range namespaceKinds {
		path := sandbox.NamespacePath(m.dir(p.id), pin)
		if sandbox.Alive(m.dir(p.id), pin) {
			d.Namespaces[kind] = path
		}
	}
	doc, err := spec.ForPod(d)
	if err != nil {
		return nil, err
	}
	doc.Annotations[spec.AnnotationType] = "sandbox"
	doc.Annotations[spec.AnnotationLogDirectory] = filepath.Clean(p.record.Spec.LogDirectory)
	return doc, nil
}

// namespaceKinds are the pinned namespaces that all containers of a pod join, as documents call them.
var namespaceKinds = map[string]specs.LinuxNamespaceType{
	sandbox.Net: specs.NetworkNamespace, sandbox.IPC: specs.IPCNamespace, sandbox.UTS: specs.UTSNamespace, sandbox.User: specs.UserNamespace,
}

// stopHolder kills and removes the holder, if there is one.
func (m *Manager) stopHolder(ctx context.Context, p *pod) error {
	c, err := m.e.GetContainer(ctx, Namespace, p.id)
	if errdefs.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	if err := m.deleteTask(ctx, p.id); err != nil {
		return err
	}
	if err := m.e.RemoveContainer(ctx, Namespace, c); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	m.setHeld(p, false)
	return nil
}
