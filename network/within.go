package network

import (
	"context"
	"net"
)

// Dial connects to a port of a pod's own loopback, by IPv4 and then by IPv6. netns is the path of its network namespace, "" for the host's.
func Dial(ctx context.Context, netns string, port uint16) (*net.TCPConn, error) {
	return dial(ctx, netns, port)
}

// Interface is what went over one since it was made.
type Interface struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// Usage answers the interfaces of each of several network namespaces, named by their paths; none for one that is gone or cannot be read,
// which the error tells of.
func Usage(netns []string) ([][]Interface, error) { return usage(netns) }
