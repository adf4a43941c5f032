package testsuite

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/storage"
)

// FakeDriver is a storage.Driver in memory, for tests of what uses one. Its mounts have the type "fake" and cannot be
// mounted; Tree shows what would be there.
type FakeDriver struct {
	mu     sync.Mutex
	layers map[string]*fakeLayer
	// Fail, when set, is asked before every call with the method's name and the layer's id.
	Fail func(method, id string) error
}

type fakeLayer struct{ base, tree Tree }

var _ storage.Driver = (*FakeDriver)(nil)

// NewFakeDriver answers a driver without layers.
func NewFakeDriver() *FakeDriver { return &FakeDriver{layers: map[string]*fakeLayer{}} }

func (d *FakeDriver) begin(method, id string) (*fakeLayer, func(), error) {
	if d.Fail != nil {
		if err := d.Fail(method, id); err != nil {
			return nil, func() {}, err
		}
	}
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return nil, func() {}, fmt.Errorf("layer id %q: %w", id, errdefs.ErrInvalidArgument)
		}
	}
	d.mu.Lock()
	return d.layers[id], d.mu.Unlock, nil
}

func missing(id string) error { return fmt.Errorf("layer %s: %w", id, errdefs.ErrNotFound) }

// Tree answers the model that is layer id; tests of active layers write to it. Nil when there is no such layer.
func (d *FakeDriver) Tree(id string) Tree {
	l, end, err := d.begin("Tree", id)
	defer end()
	if err != nil || l == nil {
		return nil
	}
	return l.tree
}

// Create implements storage.Driver.
func (d *FakeDriver) Create(_ context.Context, l storage.Layer) error {
	old, end, err := d.begin("Create", l.ID)
	defer end()
	if err != nil {
		return err
	}
	if old != nil {
		return fmt.Errorf("layer %s: %w", l.ID, errdefs.ErrAlreadyExists)
	}
	if l.ID == "" {
		return fmt.Errorf("empty layer id: %w", errdefs.ErrInvalidArgument)
	}
	base := NewTree()
	for i, p := range l.Parents {
		if d.layers[p] == nil {
			return missing(p)
		}
		if i == 0 {
			base = d.layers[p].tree.Clone()
		}
	}
	d.layers[l.ID] = &fakeLayer{base: base, tree: base.Clone()}
	return nil
}

// Mounts implements storage.Driver.
func (d *FakeDriver) Mounts(_ context.Context, l storage.Layer) ([]storage.Mount, error) {
	own, end, err := d.begin("Mounts", l.ID)
	defer end()
	if err != nil {
		return nil, err
	}
	for _, p := range l.Parents {
		if d.layers[p] == nil {
			return nil, missing(p)
		}
	}
	if own == nil {
		return nil, missing(l.ID)
	}
	mode := "ro"
	if l.Kind == storage.Active {
		mode = "rw"
	}
	return []storage.Mount{{Type: "fake", Source: l.ID, Options: []string{mode}}}, nil
}

// Apply implements storage.Driver.
func (d *FakeDriver) Apply(ctx context.Context, l storage.Layer, diff io.Reader) (storage.Usage, error) {
	own, end, err := d.begin("Apply", l.ID)
	defer end()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return storage.Usage{}, err
	}
	if own == nil {
		return storage.Usage{}, missing(l.ID)
	}
	if err := own.tree.Apply(diff); err != nil {
		return storage.Usage{}, err
	}
	return own.usage(), nil
}

// Diff implements storage.Driver.
func (d *FakeDriver) Diff(ctx context.Context, l storage.Layer, w io.Writer) error {
	own, end, err := d.begin("Diff", l.ID)
	defer end()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	if own == nil {
		return missing(l.ID)
	}
	return own.tree.Diff(own.base, w)
}

func (l *fakeLayer) usage() (u storage.Usage) {
	seen := map[*Node]bool{}
	for p, n := range l.tree {
		if was := l.base[p]; !seen[n] && (p == "." || was == nil || was.line() != n.line()) {
			seen[n] = true
			u.Inodes++
			u.Size += (int64(len(n.Data)) + 4095) &^ 4095
		}
	}
	return u
}

// Seal implements storage.Driver.
func (d *FakeDriver) Seal(_ context.Context, l storage.Layer) (storage.Usage, error) {
	return d.usage("Seal", l.ID)
}

// Usage implements storage.Driver.
func (d *FakeDriver) Usage(_ context.Context, id string) (storage.Usage, error) {
	return d.usage("Usage", id)
}

func (d *FakeDriver) usage(method, id string) (storage.Usage, error) {
	own, end, err := d.begin(method, id)
	defer end()
	if err != nil {
		return storage.Usage{}, err
	}
	if own == nil {
		return storage.Usage{}, missing(id)
	}
	return own.usage(), nil
}

// Remove implements storage.Driver.
func (d *FakeDriver) Remove(_ context.Context, id string) error {
	_, end, err := d.begin("Remove", id)
	defer end()
	if err == nil {
		delete(d.layers, id)
	}
	return err
}

// List implements storage.Driver.
func (d *FakeDriver) List(context.Context) ([]string, error) {
	_, end, err := d.begin("List", "")
	defer end()
	if err != nil {
		return nil, err
	}
	var ids []string
	for id := range d.layers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}
