package client

import (
	"context"
	"net"
	"strings"

	winio "github.com/Microsoft/go-winio"
)

const defaultAddress = `\\.\pipe\slipway`

func dial(ctx context.Context, address string) (net.Conn, error) {
	return winio.DialPipeContext(ctx, strings.ReplaceAll(strings.TrimPrefix(address, "npipe://"), "/", `\`))
}
