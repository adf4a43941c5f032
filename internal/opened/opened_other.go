//go:build !linux

// Package opened tells which files of a mounted file system are opened; nothing here does yet.
package opened

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

// File is one that was opened.
type File struct {
	Path string        // from New's root, without a slash in front
	At   time.Duration // from New to the first time, or up to the call of Files after it
}

// Watch notes what is opened until it is closed. It is for one goroutine at a time.
type Watch struct{}

// New is NotImplemented.
func New(root string) (*Watch, error) {
	return nil, fmt.Errorf("cannot watch what is opened in %s: %w", root, errdefs.ErrNotImplemented)
}

// Files lists nothing.
func (*Watch) Files() ([]File, error) { return nil, nil }

// Close does nothing.
func (*Watch) Close() error { return nil }
