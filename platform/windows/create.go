package windows

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/windows/document"
	"github.com/slipwayd/slipway/platform/windows/hcs"
	"github.com/slipwayd/slipway/storage"
)

// Create makes things in an order that a later executor can undo from what it finds: the folder, the record, the mount of the layers, the
// credential guard, and last the system.
func (e *Executor) Create(ctx context.Context, s platform.Spec) (platform.Container, error) {
	if s.Name == "" {
		s.Name = s.ID
	}
	if !validID(s.ID) {
		return nil, fmt.Errorf("cannot create container %q: not a valid id (letters, digits and _.+-, and no name of a device): %w", s.ID, errdefs.ErrInvalidArgument)
	}
	if s.Checkpoint != "" {
		return nil, fmt.Errorf("cannot create container %q from a checkpoint: Windows has no such thing: %w", s.Name, errdefs.ErrNotImplemented)
	}
	c, err := e.create(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("cannot create container %q: %w", s.Name, err)
	}
	return c, nil
}

func (e *Executor) create(ctx context.Context, s platform.Spec) (_ *container, err error) {
	layers, err := layersOf(s.Rootfs)
	if err != nil {
		return nil, err
	}
	checked, err := document.New(e.host, s.OCI, layers)
	if err != nil {
		return nil, err
	}
	c := newContainer(e, s.ID, filepath.Join(e.root, s.ID))
	c.record = &record{
		Name: s.Name, System: s.ID + "-" + strings.ToLower(rand.Text()[:8]), Schema: checked.Schema, Guarded: checked.Credentials != "",
		Process: checked.Process, Terminal: s.IO.Terminal, Width: s.IO.Width, Height: s.IO.Height,
	}
	if !checked.HyperV && checked.Volume == "" {
		c.record.Scratch = checked.Layers.Scratch
	}
	if err := c.prepareInit(s.IO); err != nil {
		return nil, err
	}
	if err := os.Mkdir(c.dir, 0o700); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w", errdefs.ErrAlreadyExists)
	} else if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.undo(ctx)
		}
	}()
	if err := c.writeRecord(); err != nil {
		return nil, err
	}
	if err := c.makeSystem(ctx, checked); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.containers[s.ID] = c
	return c, nil
}

// makeSystem mounts the layers and creates the compute system on them.
func (c *container) makeSystem(ctx context.Context, checked *document.Container) (err error) {
	host, made := c.e.host, document.Made{Volume: checked.Volume}
	if c.record.Scratch != "" {
		if made.Volume, err = host.Mount(ctx, checked.Layers); err != nil {
			return fmt.Errorf("cannot mount the layers on %s: %w", checked.Layers.Scratch, err)
		}
	}
	for _, p := range checked.Layers.Parents {
		id, err := host.LayerID(ctx, p)
		if err != nil {
			return fmt.Errorf("cannot tell the id of layer %s: %w", p, err)
		}
		made.LayerIDs = append(made.LayerIDs, id)
	}
	if checked.Namespace != "" {
		if made.Endpoints, err = host.NamespaceEndpoints(ctx, checked.Namespace); err != nil {
			return fmt.Errorf("cannot list the endpoints of network namespace %s: %w", checked.Namespace, err)
		}
	}
	if checked.Credentials != "" {
		if made.Guard, err = host.AddGuard(ctx, c.record.System, checked.Credentials); err != nil {
			return fmt.Errorf("cannot set up the credential guard: %w", err)
		}
	}
	doc, err := checked.Document(c.record.System, made)
	if err != nil {
		return err
	}
	system, err := host.CreateSystem(ctx, c.record.System, doc)
	if err != nil {
		return err
	}
	c.watchSystem(system)
	return nil
}

// layersOf takes the one mount of containerd's windows-layer type: Source is the scratch layer's directory, and the option parentLayerPaths
// a JSON array of those below it, the uppermost first.
func layersOf(rootfs []storage.Mount) (hcs.Layers, error) {
	if len(rootfs) == 0 {
		return hcs.Layers{}, nil
	}
	m := rootfs[0]
	switch {
	case len(rootfs) > 1 || m.Target != "":
		return hcs.Layers{}, fmt.Errorf("the root file system of a Windows container is one mount, not %d: %w", len(rootfs), errdefs.ErrInvalidArgument)
	case m.Type != "windows-layer": // CimFS among them
		return hcs.Layers{}, fmt.Errorf("the root file system is a mount of type %.80q, and the built-in executor mounts windows-layer only; for CimFS %s: %w", m.Type, document.OtherShim, errdefs.ErrNotImplemented)
	case m.Source == "":
		return hcs.Layers{}, fmt.Errorf("the mount of the root file system has no source: %w", errdefs.ErrInvalidArgument)
	}
	l := hcs.Layers{Scratch: m.Source}
	for _, o := range m.Options {
		switch list, ok := strings.CutPrefix(o, "parentLayerPaths="); {
		case ok:
			if err := json.Unmarshal([]byte(list), &l.Parents); err != nil {
				return l, fmt.Errorf("cannot read the parents of layer %s: %v: %w", m.Source, err, errdefs.ErrInvalidArgument)
			}
		case o == "ro":
			return l, fmt.Errorf("layer %s is mounted read-only: a Windows container needs a writable one: %w", m.Source, errdefs.ErrInvalidArgument)
		}
	}
	return l, nil
}

// undo removes what a failed Create made.
func (c *container) undo(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	err := c.endSystem(ctx, false)
	if err == nil {
		err = c.remove(ctx)
	}
	if err != nil {
		c.e.log.Warn("cannot clean up after a container that was not created; its folder stays and can be adopted and deleted", "id", c.id, "error", err)
	}
}
