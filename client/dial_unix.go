//go:build !windows

package client

import (
	"context"
	"net"
	"strings"
)

const defaultAddress = "/run/slipway/slipway.sock"

func dial(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", strings.TrimPrefix(address, "unix://"))
}
