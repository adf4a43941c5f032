package pods

import (
	"context"
	"time"

	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/storage"
)

// FilesystemUsage is what images, or the layer of a container, take on the disk that holds them.
type FilesystemUsage struct {
	Path          string    // on that disk
	At            time.Time // when it was measured
	Bytes, Inodes int64
}

// ImageUsage sums up the unpacked layers of images. Writable layers of containers are on the same disk and are not among them.
func (m *Manager) ImageUsage(ctx context.Context) (FilesystemUsage, error) {
	about := m.e.About()
	u := FilesystemUsage{Path: about.Root, At: time.Now()}
	for _, driver := range about.Drivers {
		snapshots, err := m.e.Snapshots(scope, driver)
		if err != nil {
			return u, err
		}
		err = snapshots.Walk(ctx, func(page []metadata.Snapshot) error {
			for _, s := range page {
				if s.Kind == storage.Committed {
					u.Bytes += s.Usage.Size
					u.Inodes += s.Usage.Inodes
				}
			}
			return nil
		})
		if err != nil {
			return u, err
		}
	}
	return u, nil
}
