//go:build !linux

package stdio

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

func (s *Set) open(ctx context.Context, c Config) error {
	if c.Stdin+c.Stdout+c.Stderr == "" {
		return nil
	}
	return fmt.Errorf("cannot open streams of a process on this system: %w", errdefs.ErrNotImplemented)
}

func (s *Set) attach(c Config, stdinClosed bool) {}

func (s *Set) attachTerminal(c Config, stdinClosed bool, kept Kept) {}

// Hold has nothing to hold here.
func (s *Set) Hold() (bool, error) { return true, nil }

// Tap has nothing to read along with here.
func (s *Set) Tap(stdout, stderr string) error {
	return fmt.Errorf("cannot read along with a process on this system: %w", errdefs.ErrNotImplemented)
}
