package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/slipwayd/slipway/internal/durable"
	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/shim"
)

// uuidFile holds the daemon's identity below its root, made once.
const uuidFile = "uuid"

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// UUID is the daemon's identity: it stays as long as its root does. A crash leaves the old one, the new one or none.
func (e *Engine) UUID() (string, error) {
	e.uuidMu.Lock()
	defer e.uuidMu.Unlock()
	path := filepath.Join(e.root, uuidFile)
	data, err := os.ReadFile(path)
	if err == nil && uuidForm.Match(data) {
		return string(data), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("cannot read the daemon's identity: %w", err)
	}
	id := newUUID()
	if err := durable.Replace(path, []byte(id)); err != nil {
		return "", fmt.Errorf("cannot write the daemon's identity: %w", err)
	}
	return id, nil
}

// newUUID makes a random one (RFC 9562, 5.4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Snapshotter tells of a driver.
type Snapshotter struct {
	Name      string
	CanRebase bool
}

// Snapshotters answers the drivers in order of their names, by each of those.
func (e *Engine) Snapshotters() []Snapshotter {
	var all []Snapshotter
	names := slices.AppendSeq(slices.Collect(maps.Keys(e.drivers)), maps.Keys(e.aliases))
	slices.Sort(names)
	for _, name := range names {
		s := Snapshots{e: e, name: name, driver: e.drivers[e.driverName(name)]}
		all = append(all, Snapshotter{Name: name, CanRebase: s.CanRebase()})
	}
	return all
}

// RuntimeInfo tells what a runtime can do; options are the runtime's own.
func (e *Engine) RuntimeInfo(ctx context.Context, runtime string, options *opaque.Any) (shim.Info, error) {
	return e.tasks.Info(ctx, runtime, options)
}
