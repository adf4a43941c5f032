package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
)

// stopTimeout is how long calls may take to end after a request to stop; streams that have no end are cut then.
const stopTimeout = 5 * time.Second

// supervisor is who started the daemon, and how that is talked to.
type supervisor struct {
	log    func(format string, level slog.Leveler) *slog.Logger
	notify func(log *slog.Logger, state string) // in the words of sd_notify(3)
}

// run is the daemon from its locks to its end. It returns nil after a request to stop: a signal, or ctx's end.
func run(ctx context.Context, c config, by supervisor, reload func() (config, error)) (err error) {
	level := &slog.LevelVar{}
	level.Set(c.Log.Level.Level)
	log := by.log(c.Log.Format, level)
	slog.SetDefault(log)
	if err := checkPrivileges(); err != nil {
		return err
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	signal.Ignore(syscall.SIGPIPE) // a log that nobody reads is no reason to die

	for _, d := range []struct{ what, dir string }{{"root", c.Root}, {"state", c.State}} {
		unlock, err := lockDir(d.what, d.dir)
		if err != nil {
			return err
		}
		defer unlock()
	}
	sockets, err := listen(c.Address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sockets.close()) }()

	d, err := wire(c, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	if c.Metrics.Address != "" {
		stop, at, err := serveMetrics(c.Metrics.Address, d.engine, log)
		if err != nil {
			return err
		}
		defer func() { _ = stop() }() // before the engine; what is under way is cut
		log.Info("serving metrics", "address", at)
	}
	failed := make(chan error, 2)
	go func() { failed <- serveError(c.Address, d.grpc.Serve(sockets.grpc)) }()
	calls := context.WithoutCancel(ctx) // those under way end in close
	go func() { failed <- serveError(c.Address+ttrpcSuffix, d.ttrpc.Serve(calls, sockets.ttrpc)) }()

	began := time.Now()
	if err := d.engine.Start(ctx); err != nil {
		return fmt.Errorf("cannot start: %w", err)
	}
	if d.pods != nil {
		if err := d.pods.Restore(ctx); err != nil {
			return fmt.Errorf("cannot start: %w", err)
		}
	}
	if d.plugins != nil {
		if err := d.plugins.Start(ctx, d.pods); err != nil {
			return fmt.Errorf("cannot start: %w", err)
		}
	}
	d.grpc.Ready()
	log.Info("ready", "address", c.Address, "root", c.Root, "state", c.State, "version", version, "took", time.Since(began).Round(time.Millisecond))
	by.notify(log, "READY=1")
	settle()
	err = wait(ctx, log, level, signals, failed, reload)
	by.notify(log, "STOPPING=1")
	return err
}

// wait holds until a request to stop or the failure of a listener.
func wait(ctx context.Context, log *slog.Logger, level *slog.LevelVar, signals <-chan os.Signal, failed <-chan error, reload func() (config, error)) error {
	for {
		select {
		case err := <-failed:
			return err
		case <-ctx.Done():
			log.Info("stopping; containers go on running")
			return nil
		case sig := <-signals:
			if sig != syscall.SIGHUP {
				log.Info("stopping; containers go on running", "signal", sig.String())
				return nil
			}
			c, err := reload()
			if err != nil {
				log.Error("configuration is not read again", "err", err)
				continue
			}
			level.Set(c.Log.Level.Level)
			log.Info("configuration is read again: log.level is in force, hosts.toml files are read with each pull, the rest needs a restart",
				"level", c.Log.Level.Level)
		}
	}
}

// serveError is nil for the end that close brings about.
func serveError(address string, err error) error {
	if err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return fmt.Errorf("cannot serve %s any more: %w", address, err)
}

// gracefulStop lets calls end, for a while.
func gracefulStop(s interface {
	GracefulStop()
	Stop()
}) {
	done := make(chan struct{})
	go func() {
		s.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(stopTimeout):
		s.Stop()
		<-done
	}
}

func newLog(format string, level slog.Leveler) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, o))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o))
}
