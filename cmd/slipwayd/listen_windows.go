package main

import (
	"errors"
	"fmt"
	"net"

	"github.com/Microsoft/go-winio"
)

// ttrpcSuffix is appended to the address for the pipe that shims publish events to.
const ttrpcSuffix = ".ttrpc"

// pipeAccess lets administrators and the system in, and nobody else (SDDL).
const pipeAccess = "D:P(A;;GA;;;BA)(A;;GA;;;SY)"

type sockets struct {
	grpc, ttrpc net.Listener
}

func (s sockets) close() error { return errors.Join(s.grpc.Close(), s.ttrpc.Close()) }

// listen takes the address and the one beside it. The first instance of a pipe is exclusive, so a second daemon fails here.
func listen(address string) (s sockets, err error) {
	o := &winio.PipeConfig{SecurityDescriptor: pipeAccess}
	if s.grpc, err = winio.ListenPipe(address, o); err != nil {
		return s, fmt.Errorf("cannot listen on %s (does another daemon answer there?): %w", address, err)
	}
	if s.ttrpc, err = winio.ListenPipe(address+ttrpcSuffix, o); err != nil {
		return s, errors.Join(fmt.Errorf("cannot listen on %s: %w", address+ttrpcSuffix, err), s.grpc.Close())
	}
	return s, nil
}
