package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"

	"github.com/spf13/cobra"
)

// supervised runs the daemon below a terminal or systemd.
func supervised(ctx context.Context, _ string, load func() (config, error)) error {
	c, err := load()
	if err != nil {
		return err
	}
	return run(ctx, c, supervisor{log: newLog, notify: notify}, load)
}

// addSystem has nothing to add: systemd's units are files.
func addSystem(*cobra.Command, *flags) {}

// notify tells systemd, when it started us, how we are (sd_notify(3)).
func notify(log *slog.Logger, state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte(state))
		err = errors.Join(err, conn.Close())
	}
	if err != nil {
		log.Warn("cannot notify the service manager", "socket", path, "err", err)
	}
}
