package pods

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/internal/usage"
	"github.com/slipwayd/slipway/spec"
)

func (w *onWindows) document(_ context.Context, p *pod, c *container, img *image) (*specs.Spec, func(context.Context) error, error) {
	s := c.record.Spec
	doc, err := spec.ForWindowsPod(spec.WindowsPodDocument{
		PodID: p.id, ID: c.id, Pod: p.record.Spec, Container: s, Image: img.Config.Config, ImageName: c.image, OSVersion: img.Config.OSVersion,
		Network: w.netns(p), HyperV: p.runtime.HyperV, Alone: p.runtime.Foreign,
	})
	if err == nil {
		err = spec.Annotations(spec.Matching(p.record.Spec.Annotations, p.runtime.PodAnnotations))(doc)
	}
	if err == nil {
		err = spec.Annotations(spec.Matching(s.Annotations, p.runtime.ContainerAnnotations))(doc)
	}
	return doc, func(context.Context) error { return nil }, err
}

func (w *onWindows) limit(doc *specs.Spec, r *spec.Resources) (told opaque.Any, err error) {
	limits, err := r.ForWindows()
	if err != nil {
		return told, err
	}
	if doc.Windows == nil {
		return told, fmt.Errorf("its document is none of Windows: %w", errdefs.ErrDataLoss)
	}
	if limits == nil {
		limits = &specs.WindowsResources{}
	}
	told.TypeURL = "types.containerd.io/opencontainers/runtime-spec/1/WindowsResources"
	told.Value, err = json.Marshal(limits)
	doc.Windows.Resources = limits
	return told, err
}

// use asks the container's shim, as nobody else knows.
func (w *onWindows) use(ctx context.Context, c *container, v Container, _ bool) (*usage.Usage, *uint64) {
	data, err := w.m.e.Tasks().Stats(ctx, Namespace, c.id)
	if err != nil {
		if !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) { // it is ending
			w.m.conf.Log.Warn("cannot measure what a container uses", "container", c.id, "err", err)
		}
		return nil, nil
	}
	u, err := w.Usage(data)
	if err != nil {
		w.m.conf.Log.Warn("cannot read what a container uses", "container", c.id, "err", err)
		return nil, nil
	}
	if pids, err := w.m.e.Tasks().Pids(ctx, Namespace, c.id); err == nil { // what is not in the statistics
		u.Tasks = uint64(len(pids))
	}
	if r := v.Resources; r != nil && r.Windows != nil {
		u.Limit = uint64(max(r.Windows.Memory, 0))
	}
	return &u, c.use.rate(u)
}

// podUse has nothing to add: Windows knows of containers only.
func (w *onWindows) podUse(*pod, []Stats, bool) (*usage.Usage, *uint64) { return nil, nil }

func (w *onWindows) traffic(ctx context.Context, netns []string) ([][]Interface, error) {
	all := make([][]Interface, len(netns))
	var failed error
	for i, id := range netns {
		got, err := w.Namespaces.Traffic(ctx, id)
		if err != nil && !errdefs.IsNotFound(err) {
			failed = fmt.Errorf("network namespace %s: %w", id, err)
		}
		all[i] = got
	}
	return all, failed
}
