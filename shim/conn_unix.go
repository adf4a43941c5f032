//go:build !windows

package shim

import (
	"context"
	"errors"
	"net"
	"syscall"
)

func dialLocal(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}

// isBroken tells errors of a connection whose other end is gone.
func isBroken(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}
