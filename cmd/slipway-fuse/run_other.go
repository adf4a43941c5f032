//go:build !linux

package main

import (
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

var errNoFUSE = fmt.Errorf("lazy layers need Linux's FUSE: %w", errdefs.ErrNotImplemented)

func exitCode(err error) (int, error) {
	if err != nil {
		return 1, err
	}
	return 0, nil
}

func keep(options) error             { return errNoFUSE }
func serve(options) error            { return errNoFUSE }
func status(string, io.Writer) error { return errNoFUSE }
