//go:build !linux

package fdstore

import (
	"fmt"
	"log/slog"

	"github.com/containerd/errdefs"
)

// Store keeps nothing on this system.
type Store struct{}

// Listen answers a Store that nobody can reach.
func Listen(path string, log *slog.Logger) (*Store, error) { return &Store{}, nil }

// Close has nothing to close.
func (s *Store) Close() error { return nil }

// Drop has nothing to drop.
func (s *Store) Drop(name string) {}

func (c Client) ask(m message, files Files) (Files, error) {
	return nil, fmt.Errorf("files cannot be handed over on this system: %w", errdefs.ErrNotImplemented)
}
