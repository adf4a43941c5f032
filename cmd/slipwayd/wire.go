package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/api/containerd"
	"github.com/slipwayd/slipway/api/cri"
	"github.com/slipwayd/slipway/api/slipway"
	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/engine/pods"
	"github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/image/startprofile"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/nri"
	"github.com/slipwayd/slipway/shim"
	"github.com/slipwayd/slipway/storage"
)

// daemon is all that was wired.
type daemon struct {
	engine  *engine.Engine
	pods    *pods.Manager  // nil without CRI
	plugins *nri.Plugins   // of pods; nil where they are not wanted
	streams *cri.Streaming // of containers of pods; nil where they are not served
	grpc    *containerd.Server
	ttrpc   *containerd.TTRPCServer
	system  func() // ends what belongs to the operating system
}

// close ends calls first, as they use the engine. Containers go on running.
func (d *daemon) close() error {
	err := d.ttrpc.Close()
	gracefulStop(d.grpc)
	if d.streams != nil {
		err = errors.Join(err, d.streams.Close())
	}
	if d.pods != nil {
		err = errors.Join(err, d.pods.Close())
	}
	if d.plugins != nil { // which pods ask
		err = errors.Join(err, d.plugins.Close())
	}
	err = errors.Join(err, d.engine.Close())
	d.system()
	return err
}

// drivers are the storage drivers of a machine.
type drivers struct {
	byName map[string]storage.Driver // by the names that containerd's clients use
	chosen string
	also   map[string]string // further names
	notes  []string          // what the machine cannot do, and why
}

// close ends what drivers do by themselves.
func (d drivers) close() error {
	var errs []error
	for _, driver := range d.byName {
		if c, ok := driver.(io.Closer); ok {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// wire makes the parts in the order in which they need each other and hands them to the engine. After an error nothing of
// them is left open.
func wire(c config, log *slog.Logger) (_ *daemon, err error) {
	d := &daemon{}
	var undo []func() error
	defer func() {
		for i := len(undo) - 1; err != nil && i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
	}()

	// The machine: orphans come to this process from the first shim on.
	system, err := startSystem(log)
	if err != nil {
		return nil, err
	}
	undo = append(undo, func() error { system(); return nil })

	// What is on disk: layers, blobs, and the records that give them meaning.
	layers, err := openDrivers(c, log)
	if err != nil {
		return nil, err
	}
	undo = append(undo, layers.close)
	indexes, err := openIndexes(c, log)
	if err != nil {
		return nil, err
	}
	profiles, err := startprofile.Open(filepath.Join(c.Root, "startprofiles"), log)
	if err != nil {
		return nil, err
	}
	blobs, err := content.Open(filepath.Join(c.Root, "content"))
	if err != nil {
		return nil, err
	}
	db, err := metadata.Open(filepath.Join(c.Root, "metadata.db"), metadata.Options{LockTimeout: time.Second})
	if err != nil {
		return nil, err
	}
	undo = append(undo, db.Close)

	// Shims tell of tasks from the moment the manager listens; the engine that publishes it comes a little later.
	var eng *engine.Engine
	made := make(chan struct{})
	tasks, err := shim.New(shim.Config{
		State: filepath.Join(c.State, "shim"), Binary: c.Shim.Path, Group: c.Shim.Group, Runtimes: runtimes(c.Shim.Runtimes),
		Address: c.Address, Log: log,
		Events: func(ev shim.Event) {
			<-made
			publish(eng, log, ev)
		},
	})
	if err != nil {
		return nil, err
	}
	undo = append(undo, tasks.Close)

	eng, err = engine.New(engine.Parts{
		DB: db, Content: blobs, Drivers: layers.byName, DefaultDriver: layers.chosen, Aliases: layers.also, Tasks: tasks,
		Registry: registry.New(registry.Config{
			HostsDirs: filepath.SplitList(c.Registry.ConfigPath), Credentials: credentials(c.Registry), UserAgent: "slipway/" + version,
		}),
		Indexes: indexes, Lazy: lazyOptions(c), Profiles: profiles,
		Root: c.Root, State: c.State, Log: log, EventField: containerd.EventField,
		GCDelay: c.GC.Delay.Duration, GCInterval: c.GC.Interval.Duration, Leave: leaveNetworks,
	})
	if err != nil {
		return nil, err
	}
	close(made)
	undo = []func() error{func() error { system(); return nil }, eng.Close} // which closes the parts

	d.engine, d.system = eng, system
	if err := d.serve(c, layers.notes, tasks, log); err != nil {
		return nil, err
	}
	return d, nil
}

// serve registers what the engine does at the servers that clients will reach.
func (d *daemon) serve(c config, notes []string, tasks *shim.Manager, log *slog.Logger) (err error) {
	d.grpc = containerd.NewServer(d.engine, containerd.Options{Log: log, Version: apiVersion, Revision: version})
	if d.ttrpc, err = containerd.NewTTRPCServer(d.engine); err != nil {
		return err
	}
	uuid, err := d.engine.UUID()
	if err != nil {
		return err
	}
	host := describeHost()
	host.Version, host.UUID, host.Notes = version, uuid, notes
	slipway.Register(d.grpc, d.engine, host)
	if !c.CRI.Enabled {
		return nil
	}
	holder, err := tasks.Binary()
	if err != nil {
		log.Warn("pods cannot share PID namespaces, nor have their logs written for other shims than the built-in", "err", err)
	}
	if d.plugins, err = wirePlugins(c, log); err != nil {
		return err
	}
	d.pods, err = wirePods(c, d.engine, tasks, d.plugins, holder, log)
	if errdefs.IsNotImplemented(err) {
		log.Warn("CRI is not served", "err", err)
		return nil
	} else if err != nil {
		return err
	}
	if d.streams, err = wireStreaming(c.CRI, d.pods, log); err != nil {
		return errors.Join(err, d.pods.Close())
	}
	cri.Register(d.grpc, d.pods, cri.Options{Version: version, Streaming: d.streams})
	return nil
}

// credentials are the daemon's own, for pulls that bring none.
func credentials(c registryConfig) registry.CredentialFunc {
	var all []registry.Provider
	for _, p := range c.Providers {
		all = append(all, registry.Provider{Program: p.Program, Args: p.Args, Env: p.Env, Match: p.Match, CacheFor: p.CacheFor.Duration})
	}
	return registry.Providers(all, registry.DockerCredentials(""))
}

// apiVersion is the version of containerd whose API this is: clients decide by it what they may ask for.
const apiVersion = "2.3.0+slipway"

func runtimes(paths map[string]string) map[string]shim.RuntimeConfig {
	all := make(map[string]shim.RuntimeConfig, len(paths))
	for name, path := range paths {
		all[name] = shim.RuntimeConfig{Path: path}
	}
	return all
}

// publish hands a shim's event to the engine.
func publish(eng *engine.Engine, log *slog.Logger, ev shim.Event) {
	err := eng.TaskEvent(context.Background(), engine.Event{
		At: ev.At, Namespace: ev.Namespace, Topic: ev.Topic, Payload: ev.Payload,
	})
	if err != nil {
		log.Warn("a shim told of something that cannot be published", "topic", ev.Topic, "err", err)
	}
}
