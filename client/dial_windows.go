package client

import (
	"context"
	"net"
	"strings"

	"github.com/slipwayd/slipway/internal/ipc"
)

const defaultAddress = `\\.\pipe\slipway`

func dial(ctx context.Context, address string) (net.Conn, error) {
	return ipc.Dial(ctx, strings.ReplaceAll(strings.TrimPrefix(address, "npipe://"), "/", `\`))
}
