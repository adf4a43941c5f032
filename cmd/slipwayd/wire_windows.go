package main

import (
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/storage/windowsfilter"
)

// windowsName is the driver's name on the wire: containerd's, as its clients ask for it.
const windowsName = "windows"

// cimName is that of layers in CimFS, likewise. They run with the shim of runhcs only.
const cimName = "cimfs"

// openDrivers opens the one driver that Windows has. Layers are never served before they are here: there is no FUSE.
func openDrivers(c config, log *slog.Logger) (d drivers, err error) {
	host, err := windowsfilter.NewHost(filepath.Join(c.Root, "windowsfilter-temp"))
	if err != nil {
		return d, err
	}
	layers, err := windowsfilter.New(filepath.Join(c.Root, "windowsfilter"), host)
	if err != nil {
		return d, err
	}
	d = drivers{byName: map[string]storage.Driver{windowsName: layers}, chosen: windowsName}
	cims, err := windowsfilter.NewCim(filepath.Join(c.Root, "cimfs"), filepath.Join(c.Root, "cimfs-temp"))
	if err == nil {
		d.byName[cimName] = cims
	} else if !errdefs.IsNotImplemented(err) {
		d.notes = append(d.notes, fmt.Sprintf("there is no snapshotter %s: %v", cimName, err))
		log.Warn(d.notes[0])
	}
	if c.Lazy.Mode == engine.LazyAlways {
		note := "images are always pulled in full: Windows has nothing to serve layers with before they are here; [lazy] mode is taken for never"
		d.notes = append(d.notes, note)
		log.Warn(note)
	}
	return d, nil
}

// startSystem has nothing to start: Windows has no orphans to reap.
func startSystem(*slog.Logger) (stop func(), err error) { return func() {}, nil }
