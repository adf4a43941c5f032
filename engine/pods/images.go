package pods

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/engine"
	imagepkg "github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/image/reference"
	"github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/metadata"
)

// Labels of image records, as containerd's CRI writes them.
const (
	labelManaged = "io.cri-containerd.image"
	labelPinned  = "io.cri-containerd.pinned"
)

// Image is an image by its ID, with all names it has here. An image has a record for each of its tags, one for REPOSITORY@DIGEST and one that is called as
// its ID, so that it can be found by any.
type Image struct {
	engine.ImageDetail
	Tags, Digests []string // names in full
	Pinned        bool     // kubelet is not to remove it when the disk is full
}

// Images lists images, each ID once. Those that are not for this host's platform are left out.
func (m *Manager) Images(ctx context.Context) ([]Image, error) {
	records, err := m.e.ListImages(ctx, Namespace)
	if err != nil {
		return nil, err
	}
	byID := map[string]*Image{}
	var ids []string
	for _, r := range records {
		detail, err := m.detail(ctx, r)
		if errdefs.IsNotFound(err) {
			continue // being pulled or removed, or of another platform
		} else if err != nil {
			m.conf.Log.Warn("cannot read an image; it is not listed", "image", r.Name, "err", err)
			continue
		}
		i := byID[detail.ID]
		if i == nil {
			i = &Image{ImageDetail: detail}
			byID[detail.ID] = i
			ids = append(ids, detail.ID)
		}
		i.add(r)
	}
	list := make([]Image, 0, len(ids))
	for _, id := range ids {
		list = append(list, *byID[id])
	}
	return list, nil
}

// add takes a record's name.
func (i *Image) add(r metadata.Image) {
	i.Pinned = i.Pinned || r.Labels[labelPinned] == "pinned"
	switch ref, err := reference.Parse(r.Name); {
	case strings.HasPrefix(r.Name, "sha256:"), err != nil:
	case ref.Digest != "":
		i.Digests = append(i.Digests, r.Name)
	default:
		i.Tags = append(i.Tags, r.Name)
		if d := ref.Name() + "@" + r.Target.Digest.String(); !slices.Contains(i.Digests, d) {
			i.Digests = append(i.Digests, d)
		}
	}
	slices.Sort(i.Digests)
	i.Digests = slices.Compact(i.Digests)
}

// Image finds one by any of its names. NotFound when it is not here.
func (m *Manager) Image(ctx context.Context, ref string) (Image, error) {
	record, err := m.FindImage(ctx, ref)
	if err != nil {
		return Image{}, err
	}
	detail, err := m.detail(ctx, record)
	if err != nil {
		return Image{}, err
	}
	all, err := m.Images(ctx)
	for _, i := range all {
		if i.ID == detail.ID {
			return i, nil
		}
	}
	return Image{}, errors.Join(err, fmt.Errorf("image %.300q is not here: %w", ref, errdefs.ErrNotFound))
}

// detail keeps what it read: kubelet lists images every few seconds.
func (m *Manager) detail(ctx context.Context, r metadata.Image) (engine.ImageDetail, error) {
	key := "detail " + r.Target.Digest.String()
	if i := m.images.get(key); i != nil {
		d := i.ImageDetail
		d.Image = r
		return d, nil
	}
	d, err := m.e.ImageDetail(ctx, scope, r)
	if err == nil {
		m.images.put(key, &image{ImageDetail: d})
	}
	return d, err
}

// RemoveImage removes every name of the image that ref is one of, and waits until what only it used is gone. It is nil when there is none.
func (m *Manager) RemoveImage(ctx context.Context, ref string) error {
	i, err := m.Image(ctx, ref)
	if errdefs.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	names := append(append([]string{i.ID}, i.Tags...), i.Digests...)
	for n, name := range names {
		err := m.e.DeleteImage(ctx, Namespace, name, nil, n == len(names)-1)
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// pulls are images being pulled, by reference and credentials: calls for the same join. A pull ends when nobody waits for it any more; what it
// fetched is kept for the next.
type pulls struct {
	slots chan struct{} // for those that may run side by side; nil for any number

	mu  sync.Mutex
	all map[string]*pull
}

type pull struct {
	waiting int // under pulls.mu
	cancel  context.CancelFunc
	done    chan struct{}
	id      string
	err     error
}

// PullOptions says on whose behalf an image is pulled.
type PullOptions struct {
	Ref         string
	Handler     string // runtime class it is for: its snapshotter gets the layers
	Credentials registry.CredentialFunc
	Who         string // tells credentials apart; calls that differ in it do not join
	Lazy        string // engine.LazyAuto, LazyAlways or LazyNever; empty for what labels or the configuration say
}

// Pull fetches and unpacks an image and answers its ID.
func (m *Manager) Pull(ctx context.Context, o PullOptions) (string, error) {
	r, err := m.runtime(o.Handler)
	if err != nil {
		return "", err
	}
	key := fmt.Sprintf("%s %s %s %s", o.Ref, r.Snapshotter, o.Lazy, o.Who)
	m.pulling.mu.Lock()
	p := m.pulling.all[key]
	if p == nil {
		if m.life.Err() != nil {
			m.pulling.mu.Unlock()
			return "", fmt.Errorf("the daemon is ending: %w", errdefs.ErrUnavailable)
		}
		p = &pull{done: make(chan struct{})}
		var life context.Context
		life, p.cancel = context.WithCancel(m.life)
		if m.pulling.all == nil {
			m.pulling.all = map[string]*pull{}
		}
		m.pulling.all[key] = p
		m.wait.Go(func() {
			defer p.cancel()
			p.id, p.err = m.pull(life, o, r.Snapshotter)
			m.pulling.mu.Lock()
			if m.pulling.all[key] == p {
				delete(m.pulling.all, key)
			}
			m.pulling.mu.Unlock()
			close(p.done)
		})
	}
	p.waiting++
	m.pulling.mu.Unlock()
	defer func() {
		m.pulling.mu.Lock()
		defer m.pulling.mu.Unlock()
		if p.waiting--; p.waiting == 0 && m.pulling.all[key] == p {
			delete(m.pulling.all, key) // who comes now begins anew
			p.cancel()
		}
	}()
	select {
	case <-p.done:
		return p.id, p.err
	case <-ctx.Done():
		return "", fmt.Errorf("image %.300q is not pulled yet%s: %w", o.Ref, m.howFar(o.Ref), ctx.Err())
	}
}

// howFar says how far the pull of an image is.
func (m *Manager) howFar(ref string) string {
	for _, p := range m.Pulls() {
		if p.Ref == ref {
			return ", " + p.String()
		}
	}
	return ""
}

func (m *Manager) pull(ctx context.Context, o PullOptions, snapshotter string) (string, error) {
	ref, err := reference.Parse(o.Ref)
	if err != nil {
		return "", err
	}
	if m.pulling.slots != nil {
		select {
		case m.pulling.slots <- struct{}{}:
			defer func() { <-m.pulling.slots }()
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	var id string
	_, err = m.e.Pull(ctx, scope, engine.PullOptions{
		Ref: o.Ref, Lazy: o.Lazy, Patience: m.conf.Patience, Remote: registry.Options{Credentials: o.Credentials}, Unpacks: []engine.Unpack{{Snapshotter: snapshotter}},
		Records: func(r imagepkg.Result) ([]metadata.Image, error) {
			detail, err := m.e.ImageDetail(ctx, scope, metadata.Image{Name: r.Name, Target: r.Target})
			if err != nil {
				return nil, err
			}
			id = detail.ID
			names := []string{ref.Name() + "@" + r.Target.Digest.String(), id}
			if ref.Digest == "" {
				names = append(names, ref.String())
			}
			var records []metadata.Image
			for _, name := range names {
				records = append(records, metadata.Image{Name: name, Target: r.Target, Labels: m.imageLabels(name)})
			}
			return records, nil
		},
	})
	return id, err
}

// imageLabels keep the pause image from kubelet's eviction.
func (m *Manager) imageLabels(name string) map[string]string {
	labels := map[string]string{labelManaged: "managed"}
	if pause, err := reference.Parse(m.conf.PauseImage); err == nil && m.conf.Pause && pause.String() == name {
		labels[labelPinned] = "pinned"
	}
	return labels
}

// Pulls lists the images that are being pulled for pods, the oldest first.
func (m *Manager) Pulls() []engine.Pulling { return m.e.Pulls(Namespace) }
