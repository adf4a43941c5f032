package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/storage/lazyfuse"
	"github.com/slipwayd/slipway/storage/native"
	"github.com/slipwayd/slipway/storage/overlay"
)

// Names of the drivers on the wire: containerd's, as its clients ask for them.
const (
	overlayName = "overlayfs"
	nativeName  = "native"
	// stargzName is what clients call a snapshotter to which they offer layers without their blobs: nerdctl does so to no other.
	stargzName = "stargz"
)

// openDrivers opens native always and overlay unless it is not wanted. Where overlay cannot be and is not insisted on, native
// is the default, and the log says why.
func openDrivers(c config, log *slog.Logger) (d drivers, err error) {
	copies, err := native.New(filepath.Join(c.Root, "native"))
	if err != nil {
		return d, err
	}
	d.byName, d.chosen = map[string]storage.Driver{nativeName: copies}, nativeName
	if c.Storage.Driver == "native" {
		return d, nil
	}
	layers, err := overlay.New(filepath.Join(c.Root, "overlay"))
	switch {
	case err == nil:
		d.byName[overlayName], d.chosen = d.lazy(c, layers, log), overlayName
	case c.Storage.Driver == "auto" && errors.Is(err, errdefs.ErrFailedPrecondition):
		note := fmt.Sprintf("layers are plain copies, which takes more space and time: %v", err)
		log.Warn(note)
		d.notes = append(d.notes, note)
	default:
		return d, err
	}
	return d, nil
}

// lazy answers the driver that serves layers before they are here, or, where that cannot be, the one that it was to be over.
func (d *drivers) lazy(c config, layers *overlay.Driver, log *slog.Logger) storage.Driver {
	flags := []string{"--quota", strconv.FormatInt(c.Lazy.Cache.Bytes, 10), "--idle", strconv.FormatInt(c.Lazy.Keep.Bytes, 10), "--deadline", c.Lazy.Deadline.String()}
	if !c.Lazy.Passthrough {
		flags = append(flags, "--no-passthrough")
	}
	driver, err := lazyfuse.New(lazyfuse.Config{
		Layers: layers, State: filepath.Join(c.State, "lazy"), Cache: filepath.Join(c.Root, "lazy"), Program: findProgram(c.Lazy.Path, "slipway-fuse"),
		Flags: flags, Log: log,
	})
	if err == nil {
		d.also = map[string]string{stargzName: overlayName}
		return driver
	}
	note := fmt.Sprintf("images are always pulled in full: %v", err)
	if c.Lazy.Mode != engine.LazyNever {
		log.Warn(note)
		d.notes = append(d.notes, note)
	}
	return layers
}

// findProgram answers the binary that is configured, or the one of that name beside this one or in PATH, or nothing.
func findProgram(configured, name string) string {
	if configured != "" {
		return configured
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if _, err := os.Stat(beside); err == nil {
			return beside
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return path
}

// startSystem makes this process the parent of orphans and reaps them, until the answered func is called.
func startSystem(log *slog.Logger) (stop func(), err error) {
	if err := adoptOrphans(); err != nil {
		// Exits of containers whose shim dies are then learned in another way, on new kernels.
		log.Warn("orphans go elsewhere", "err", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { reapOrphans(ctx, orphanGrace) })
	return func() {
		cancel()
		wg.Wait()
	}, nil
}
