package pods

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/image/reference"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/spec"
)

// labelExpire lets collection take a snapshot that a crash left behind.
const labelExpire = "containerd.io/gc.expire"

// image is what containers need to know of one.
type image struct {
	engine.ImageDetail
	accounts spec.Accounts
}

// maxImages bounds the cache.
const maxImages = 256

// imageCache keeps what does not change of images: their documents and the accounts in their files, by target and driver.
type imageCache struct {
	mu   sync.Mutex
	seen map[string]*image
}

func (c *imageCache) get(key string) *image {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[key]
}

func (c *imageCache) put(key string, i *image) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil || len(c.seen) >= maxImages {
		c.seen = map[string]*image{}
	}
	c.seen[key] = i
}

// ref is the image as REPOSITORY@DIGEST, which is how CRI calls what a container runs.
func (i *image) ref() string {
	r, err := reference.Parse(i.Image.Name)
	if err != nil || r.Host == "" {
		return i.ID
	}
	return r.Name() + "@" + i.Image.Target.Digest.String()
}

// FindImage finds the record of an image by a name as users type it, or by its ID. NotFound when there is none.
func (m *Manager) FindImage(ctx context.Context, ref string) (metadata.Image, error) {
	if ref == "" {
		return metadata.Image{}, fmt.Errorf("no image is named: %w", errdefs.ErrInvalidArgument)
	}
	candidates := []string{ref}
	if _, err := digest.Parse("sha256:" + ref); err == nil {
		candidates = append(candidates, "sha256:"+ref)
	} else if r, err := reference.Parse(ref); err == nil {
		candidates = append(candidates, r.String())
	}
	for _, name := range candidates {
		img, err := m.e.GetImage(ctx, Namespace, name)
		if err == nil || !errdefs.IsNotFound(err) {
			return img, err
		}
	}
	return m.findShort(ctx, ref)
}

// findShort finds an image by the beginning of its ID, as tools show it.
func (m *Manager) findShort(ctx context.Context, ref string) (found metadata.Image, err error) {
	missing := fmt.Errorf("image %.300q is not here, pull it first: %w", ref, errdefs.ErrNotFound)
	short := strings.TrimPrefix(ref, "sha256:")
	if len(short) > digest.SHA256.Size()*2 || strings.Trim(short, "0123456789abcdef") != "" {
		return found, missing
	}
	all, err := m.e.ListImages(ctx, Namespace)
	if err != nil {
		return found, err
	}
	for _, i := range all {
		if !strings.HasPrefix(i.Name, "sha256:"+short) {
			continue
		}
		if found.Name != "" {
			return metadata.Image{}, fmt.Errorf("several images have IDs that begin with %q: %w", short, errdefs.ErrInvalidArgument)
		}
		found = i
	}
	if found.Name == "" {
		return found, missing
	}
	return found, nil
}

// image finds an image and sees to it that it is unpacked for a driver.
func (m *Manager) image(ctx context.Context, ref, snapshotter string) (*image, error) {
	img, err := m.FindImage(ctx, ref)
	if err != nil {
		return nil, err
	}
	key := snapshotter + " " + img.Target.Digest.String()
	snapshots, err := m.e.Snapshots(scope, snapshotter)
	if err != nil {
		return nil, err
	}
	found := m.images.get(key)
	if found == nil {
		found = &image{}
		if found.ImageDetail, err = m.e.ImageDetail(ctx, scope, img); err != nil {
			return nil, fmt.Errorf("cannot read image %s: %w", img.Name, err)
		}
	}
	if _, err := snapshots.Stat(ctx, found.ChainID); errdefs.IsNotFound(err) {
		if err := m.e.Unpack(ctx, scope, img, engine.Unpack{Snapshotter: snapshotter}); err != nil {
			return nil, fmt.Errorf("cannot unpack image %s: %w", img.Name, err)
		}
	} else if err != nil {
		return nil, err
	}
	if m.images.get(key) == nil {
		if found.accounts, err = m.sys.accounts(ctx, snapshots, found.ChainID); err != nil {
			return nil, fmt.Errorf("cannot read the users of image %s: %w", img.Name, err)
		}
		m.images.put(key, found)
	}
	own := *found
	own.Image = img // the same content may have several names
	return &own, nil
}

func readAccounts(ctx context.Context, snapshots *engine.Snapshots, chain string) (a spec.Accounts, err error) {
	err = look(ctx, snapshots, chain, func(path string) error {
		root, err := os.OpenRoot(path)
		if err != nil {
			return err
		}
		defer root.Close()
		a, err = spec.ReadAccounts(root.FS())
		return err
	})
	return a, err
}

// lookKey begins the names of snapshots that are looked into.
const lookKey = "look-"

// clearLooks removes those that a crash left, which would expire only later.
func (m *Manager) clearLooks(ctx context.Context) error {
	for _, driver := range m.e.About().Drivers {
		snapshots, err := m.e.Snapshots(scope, driver)
		if err != nil {
			return err
		}
		var left []string
		err = snapshots.Walk(ctx, func(page []metadata.Snapshot) error {
			for _, s := range page {
				if strings.HasPrefix(s.Key, lookKey) {
					left = append(left, s.Key)
				}
			}
			return nil
		})
		for _, key := range left {
			err = errors.Join(err, ignoreNotFound(snapshots.Remove(ctx, key)))
		}
		if err != nil {
			return fmt.Errorf("cannot remove what is left of looking into images: %w", err)
		}
	}
	return nil
}

// look mounts an image, read-only and for as long as do runs. A crash leaves a snapshot, which Restore removes.
func look(ctx context.Context, snapshots *engine.Snapshots, chain string, do func(path string) error) (err error) {
	key := lookKey + rand.Text()
	labels := map[string]string{labelExpire: time.Now().Add(time.Hour).UTC().Format(time.RFC3339)}
	mounts, err := snapshots.View(ctx, key, chain, labels)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := undoing(ctx)
		defer cancel()
		err = errors.Join(err, snapshots.Remove(ctx, key))
	}()
	return snapshots.Look(mounts, do)
}

// stopSignal is the container's, or else the image's, or else SIGTERM.
func stopSignal(container, image string) string {
	for _, s := range []string{container, image} {
		if s != "" {
			if !strings.HasPrefix(s, "SIG") && strings.Trim(s, "0123456789") != "" {
				s = "SIG" + s
			}
			return strings.ToUpper(s)
		}
	}
	return "SIGTERM"
}
