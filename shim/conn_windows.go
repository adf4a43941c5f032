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

func isBroken(err error) bool { return errors.Is(err, syscall.WSAECONNRESET) }
