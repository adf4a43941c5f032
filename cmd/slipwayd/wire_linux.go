package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/storage/native"
	"github.com/slipwayd/slipway/storage/overlay"
)

// Names of the drivers on the wire: containerd's, as its clients ask for them.
const (
	overlayName = "overlayfs"
	nativeName  = "native"
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
		d.byName[overlayName], d.chosen = layers, overlayName
	case c.Storage.Driver == "auto" && errors.Is(err, errdefs.ErrFailedPrecondition):
		note := fmt.Sprintf("layers are plain copies, which takes more space and time: %v", err)
		log.Warn(note)
		d.notes = append(d.notes, note)
	default:
		return d, err
	}
	return d, nil
}

// startSystem makes this process the parent of orphans and reaps them, until the answered func is called.
func startSystem(log *slog.Logger) (stop func(), err error) {
	if err := adoptOrphans(); err != nil {
		// Exits of containers whose shim dies are then learned in another way, on new kernels.
		log.Warn("orphans go elsewhere", "err", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { reapOrphans(ctx) })
	return func() {
		cancel()
		wg.Wait()
	}, nil
}
