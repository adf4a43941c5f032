package pods

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/internal/durable"
	"github.com/slipwayd/slipway/metadata"
)

// Files of a checkpoint's archive, as checkpointctl reads them (github.com/checkpoint-restore/checkpointctl, lib/metadata.go).
const (
	archiveImages  = "checkpoint" // directory of CRIU's
	archiveConfig  = "config.dump"
	archiveSpec    = "spec.dump"
	archiveStatus  = "status.dump"
	archiveTimes   = "status"
	archiveChanges = "rootfs-diff.tar"
	archiveLog     = "container.log"
)

// besideImages are CRIU's files that the archive has in its root.
var besideImages = []string{"dump.log", "stats-dump"}

// Checkpoint writes what a running container is at this moment into a tar at location, which is replaced when the tar is whole: its processes,
// what it changed in its root file system, its log and what CRI knows of it; status is CRI's message, in JSON. The container
// stands still meanwhile and goes on then. FailedPrecondition when it does not run, or the host lacks what it takes.
func (m *Manager) Checkpoint(ctx context.Context, id, location string, status []byte) error {
	c, err := m.running(id)
	if err != nil {
		return err
	}
	if !filepath.IsAbs(location) {
		return fmt.Errorf("cannot checkpoint container %s to %q: it is no absolute path: %w", c.id, location, errdefs.ErrInvalidArgument)
	}
	_, release, err := m.hold(c.pod.id)
	if err != nil {
		return err
	}
	defer release()
	if err := m.checkpoint(ctx, c, filepath.Clean(location), status); err != nil {
		return fmt.Errorf("cannot checkpoint container %s: %w", c.id, err)
	}
	return nil
}

// checkpoint notes what is to be undone before it does it. The note lies in the pod's directory, which like the container is gone after a reboot.
func (m *Manager) checkpoint(ctx context.Context, c *container, location string, status []byte) (err error) {
	part := location + ".part-" + rand.Text()
	note := m.checkpointNote(c)
	err = writeFile(note, func(w io.Writer) error {
		_, err := io.WriteString(w, part)
		return err
	})
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("another checkpoint of it is under way: %w", errdefs.ErrUnavailable)
	}
	if err != nil {
		return err
	}
	defer func() {
		if removeErr := os.Remove(part); removeErr != nil && !errors.Is(removeErr, fs.ErrNotExist) {
			err = errors.Join(err, removeErr)
		}
		err = errors.Join(err, os.Remove(note))
	}()
	dir, remove, err := m.e.CheckpointDir()
	if err != nil {
		return err
	}
	defer remove()
	record, err := m.e.GetContainer(ctx, Namespace, c.id)
	if err != nil {
		return err
	}
	at := now()
	if err := m.collectPaused(ctx, c, record, dir); err != nil {
		return err
	}
	if err := m.describe(c, record, at, dir, status); err != nil {
		return err
	}
	return writeArchive(dir, part, location)
}

// collectPaused writes into dir what must be of one moment, and lets the container go on.
func (m *Manager) collectPaused(ctx context.Context, c *container, record metadata.Container, dir string) (err error) {
	tasks := m.e.Tasks()
	paused := tasks.Pause(ctx, Namespace, c.id)
	if !errdefs.IsFailedPrecondition(paused) { // else somebody has paused it already
		defer func() { // after an error too: a shim that dies may have paused it
			ctx, cancel := undoing(ctx)
			defer cancel()
			err = errors.Join(err, m.resume(ctx, c.id))
		}()
		if paused != nil {
			return paused
		}
	}
	if err := m.capture(ctx, c, record, dir); err != nil {
		return err
	}
	images := filepath.Join(dir, archiveImages)
	for _, name := range besideImages {
		if err := os.Rename(filepath.Join(images, name), filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return copyLog(c.record.LogPath, filepath.Join(dir, archiveLog))
}

// capture writes a paused container's processes and what it changed in its root file system into dir.
func (m *Manager) capture(ctx context.Context, c *container, record metadata.Container, dir string) error {
	images := filepath.Join(dir, archiveImages)
	if err := os.Mkdir(images, 0o700); err != nil {
		return err
	}
	if err := m.e.Tasks().Checkpoint(ctx, Namespace, c.id, images, nil); err != nil {
		return err
	}
	snapshots, err := m.e.Snapshots(scope, record.Snapshotter)
	if err != nil {
		return err
	}
	err = writeFile(filepath.Join(dir, archiveChanges), func(w io.Writer) error { return snapshots.Changes(ctx, record.SnapshotKey, w) })
	if err != nil {
		return fmt.Errorf("cannot write what it changed in its root file system: %w", err)
	}
	return nil
}

// resume is nil for a container that is not paused, or has ended.
func (m *Manager) resume(ctx context.Context, id string) error {
	err := persist(ctx, func() error { return m.e.Tasks().Resume(ctx, Namespace, id) })
	if errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) {
		return nil
	}
	return err
}

// describe writes what the archive says of the container.
func (m *Manager) describe(c *container, record metadata.Container, at time.Time, dir string, status []byte) error {
	m.mu.Lock()
	started, pid := c.record.Status.Started, c.pid
	m.mu.Unlock()
	s := c.record.Spec
	for name, v := range map[string]any{
		archiveSpec:   json.RawMessage(record.Spec.Value),
		archiveStatus: json.RawMessage(status),
		archiveTimes:  archivedTimes{CreatedAt: c.created.UnixNano(), StartedAt: started.UnixNano(), Pid: pid},
		archiveConfig: archivedConfig{
			ID: c.id, Name: fmt.Sprintf("%s_%s_%s_%d", s.Name, c.pod.record.Spec.Name, c.pod.record.Spec.Namespace, s.Attempt),
			RootfsImage: s.Image.Ref, RootfsImageRef: c.record.ImageID, RootfsImageName: c.image, Runtime: c.pod.runtime.Name,
			CreatedTime: c.created, CheckpointedTime: at,
		},
	} {
		data, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("cannot encode %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// archivedConfig is checkpointctl's ContainerConfig, and archivedTimes its ContainerdStatus: times in nanoseconds since 1970.
type archivedConfig struct {
	ID               string    `json:"id"`
	Name             string    `json:"name"`
	RootfsImage      string    `json:"rootfsImage"`
	RootfsImageRef   string    `json:"rootfsImageRef"`
	RootfsImageName  string    `json:"rootfsImageName"`
	Runtime          string    `json:"runtime"`
	CreatedTime      time.Time `json:"createdTime"`
	CheckpointedTime time.Time `json:"checkpointedTime"`
	RestoredTime     time.Time `json:"restoredTime"`
	Restored         bool      `json:"restored"`
}

type archivedTimes struct {
	CreatedAt, StartedAt, FinishedAt int64
	ExitCode                         int32
	Pid                              uint32
	Reason, Message                  string
}

// writeArchive makes a tar of dir at part, and gives it its name when it is whole and durable.
func writeArchive(dir, part, location string) error {
	if err := writeFile(part, func(w io.Writer) error { return engine.TarDir(dir, w) }); err != nil {
		return fmt.Errorf("cannot write the archive: %w", err)
	}
	return durable.Rename(part, location)
}

func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// copyLog is nil for a container without a log.
func copyLog(from, to string) error {
	if from == "" {
		return nil
	}
	f, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read its log: %w", err)
	}
	defer f.Close()
	return writeFile(to, func(w io.Writer) error {
		_, err := io.Copy(w, f)
		return err
	})
}

const checkpointPrefix = "checkpoint-"

func (m *Manager) checkpointNote(c *container) string {
	return filepath.Join(m.dir(c.pod.id), checkpointPrefix+c.id)
}

// restoreCheckpoints undoes what a daemon left in the middle of checkpoints. Containers go on in the background, for a shim may be at its part of
// it still.
func (m *Manager) restoreCheckpoints() error {
	notes, err := filepath.Glob(filepath.Join(m.dir("*"), checkpointPrefix+"*"))
	for _, note := range notes {
		part, readErr := os.ReadFile(note)
		if errors.Is(readErr, fs.ErrNotExist) {
			continue
		}
		if removeErr := os.Remove(string(part)); len(part) > 0 && !errors.Is(removeErr, fs.ErrNotExist) {
			readErr = errors.Join(readErr, removeErr)
		}
		err = errors.Join(err, readErr)
		id := strings.TrimPrefix(filepath.Base(note), checkpointPrefix)
		m.background(func(ctx context.Context) {
			if err := m.resume(ctx, id); err != nil {
				m.conf.Log.Error("cannot resume a container after a checkpoint that was cut short; the next start of the daemon tries again", "container", id, "err", err)
				return
			}
			if err := os.Remove(note); err != nil && !errors.Is(err, fs.ErrNotExist) {
				m.conf.Log.Warn("cannot remove the note of a checkpoint", "container", id, "err", err)
			}
		})
	}
	return err
}
