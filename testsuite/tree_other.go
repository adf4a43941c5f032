//go:build !linux

package testsuite

import "github.com/containerd/errdefs"

// ReadTree is not implemented on this system.
func ReadTree(string) (Tree, error) { return nil, errdefs.ErrNotImplemented }

func runAs(string, uint32, uint32, string) ([]byte, error) { return nil, errdefs.ErrNotImplemented }
