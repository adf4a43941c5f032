// Package windows runs containers with the Host Compute Service: the platform.Executor of a Windows host.
package windows

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/platform"
)

// Config is what an Executor needs to know.
type Config struct {
	Root string       // state directory; made when missing
	Log  *slog.Logger // where it tells what it could not do but went on without; nil for slog's default
}

// Executor runs containers.
type Executor struct{ cfg Config }

var _ platform.Executor = (*Executor)(nil)

// New opens the state directory.
func New(cfg Config) (*Executor, error) { return &Executor{cfg}, nil }

func refuse(what string) error {
	return fmt.Errorf("cannot %s: this version of Slipway does not run Windows containers: %w", what, errdefs.ErrNotImplemented)
}

func (*Executor) Create(ctx context.Context, s platform.Spec) (platform.Container, error) {
	return nil, refuse("create container " + s.ID)
}

func (*Executor) Adopt(ctx context.Context, id string) (platform.Container, error) {
	return nil, refuse("adopt container " + id)
}

func (*Executor) List(ctx context.Context) ([]string, error) { return nil, refuse("list containers") }
func (*Executor) Close() error                               { return nil }
