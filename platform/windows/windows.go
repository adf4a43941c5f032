// Package windows is the place of the platform.Executor over the Host Compute Service. It runs nothing yet: every method
// of its Executor answers NotImplemented, so that a shim for Windows builds, starts and says why it cannot serve. It imports
// only package platform and leaves nothing behind.
package windows

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/platform"
)

// Executor refuses everything with NotImplemented.
type Executor struct{}

var _ platform.Executor = Executor{}

// New answers the Executor.
func New() Executor { return Executor{} }

func refuse(what string) error {
	return fmt.Errorf("cannot %s: this version of Slipway does not run Windows containers: %w", what, errdefs.ErrNotImplemented)
}

func (Executor) Create(ctx context.Context, s platform.Spec) (platform.Container, error) {
	return nil, refuse("create container " + s.ID)
}

func (Executor) Adopt(ctx context.Context, id string) (platform.Container, error) {
	return nil, refuse("adopt container " + id)
}

func (Executor) List(ctx context.Context) ([]string, error) { return nil, refuse("list containers") }
func (Executor) Close() error                               { return nil }
