package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/slipwayd/slipway/internal/ipc"
)

// ttrpcSuffix is appended to the address for the pipe that shims publish events to.
const ttrpcSuffix = ".ttrpc"

type sockets struct {
	grpc, ttrpc net.Listener
}

func (s sockets) close() error {
	var err error
	for _, l := range []net.Listener{s.grpc, s.ttrpc} {
		if cerr := l.Close(); !errors.Is(cerr, net.ErrClosed) {
			err = errors.Join(err, cerr)
		}
	}
	return err
}

// listen takes the address and the one beside it. A pipe has one owner, and ends with it: there is nothing that a dead daemon left.
func listen(address string) (s sockets, err error) {
	address = strings.ReplaceAll(strings.TrimPrefix(address, "npipe://"), "/", `\`)
	if s.grpc, err = listenPipe(address); err != nil {
		return s, err
	}
	if s.ttrpc, err = listenPipe(address + ttrpcSuffix); err != nil {
		return s, errors.Join(err, s.grpc.Close())
	}
	return s, nil
}

// listenPipe says when it fails because a daemon is there already.
func listenPipe(address string) (net.Listener, error) {
	l, err := ipc.Listen(address)
	if err == nil {
		return l, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if conn, derr := ipc.Dial(ctx, address); derr == nil {
		return nil, errors.Join(fmt.Errorf("another process already answers at %s; stop it or choose another --address: %w", address, err), conn.Close())
	}
	return nil, err
}
