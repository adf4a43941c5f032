// Package document turns OCI runtime documents into those of the Host Compute Service: Container for a system of schema 1 or 2,
// Process for a program to run, Update for limits of a running one.
//
// It has no build tags and touches no system: what it must know of the host it asks Host. It owns the shape of the documents (our own
// structs for the part of the schemas that is used, after Microsoft's HCS schema reference,
// https://learn.microsoft.com/virtualization/api/hcs/schemareference, and hcsshim's ContainerConfig for schema 1) and all checks of a
// spec: whatever comes from a client is refused here or means what it says. It imports package hcs for ProcessParameters and nothing else
// of Slipway. A crash leaves nothing.
package document

import (
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/platform/windows/hcs"
)

// Host is what must be known of the machine a container is to run on; an hcs.Host tells it.
type Host interface {
	Machine() hcs.Machine
	Resolve(path string) (real string, dir bool, err error)
}

// firstSchema2 is the first build whose service takes schema 2 (Windows Server 2019).
const firstSchema2 = 17763

// limits of what a client may ask for, far above what anybody does.
const (
	maxEntries = 1000
	maxText    = 32767 // UTF-16 units that Windows takes in a command line
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", fmt.Errorf(format, args...), errdefs.ErrInvalidArgument)
}

func unimplemented(format string, args ...any) error {
	return fmt.Errorf("%w: %w", fmt.Errorf(format, args...), errdefs.ErrNotImplemented)
}
