package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/slipwayd/slipway/storage/lazyfuse/server"
	"github.com/slipwayd/slipway/storage/lazyfuse/server/control"
	"github.com/slipwayd/slipway/storage/lazyfuse/server/keeper"
	"golang.org/x/sys/unix"
)

func newLog(part string) *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, nil)).With("part", part)
}

// exitCode tells the keeper why a server ended.
func exitCode(err error) (int, error) {
	switch {
	case errors.Is(err, server.ErrUnmounted):
		return keeper.ExitUnmounted, err
	case err != nil:
		return 1, err
	}
	return 0, nil
}

// keep runs until SIGTERM, which is for when the host ends or Slipway is removed: it unmounts.
func keep(o options) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	self, err := os.Executable() // by path, so that a server started after an upgrade is the new one
	if err != nil {
		return fmt.Errorf("cannot find slipway-fuse's own binary: %w", err)
	}
	log := newLog("keeper")
	spare(log)
	return keeper.Run(ctx, keeper.Config{Mountpoint: o.mount, State: o.state, Command: append([]string{self, "serve"}, o.args()...), Log: log})
}

// spare asks the kernel to kill others first when memory is short: without the keeper and its server, containers lose their files.
// The server inherits it.
func spare(log *slog.Logger) {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-900"), 0); err != nil {
		log.Warn("the kernel may kill the FUSE server when memory is short", "error", err)
	}
}

func serve(o options) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	log := newLog("server")
	opener, err := newOpener(o, log)
	if err != nil {
		return err
	}
	defer opener.Close()
	trimming, stopTrimming := context.WithCancel(ctx)
	var trims sync.WaitGroup
	defer trims.Wait()
	defer stopTrimming()
	trims.Go(func() { opener.trim(trimming) })
	return keeper.Serve(ctx, server.Config{Mountpoint: o.mount, State: o.state, Cache: o.cache, NoPassthrough: o.noPassthrough,
		Open: opener.open, Detail: opener.detail, Log: log})
}

func status(state string, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client := control.Client{Socket: keeper.Socket(state)}
	stats, err := client.Stats(ctx)
	if err != nil {
		return err
	}
	layers, err := client.Layers(ctx)
	if err != nil {
		return err
	}
	out := json.NewEncoder(stdout)
	out.SetIndent("", "  ")
	return out.Encode(struct {
		control.Stats
		Layers []control.Layer `json:"layers"`
	}{stats, layers})
}
