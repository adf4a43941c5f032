//go:build !linux

package oneshot

import (
	"fmt"
	"io"
	"runtime"

	"github.com/containerd/errdefs"
)

func notImplemented() error {
	return fmt.Errorf("executing for the output is not implemented on %s: %w", runtime.GOOS, errdefs.ErrNotImplemented)
}

type output struct{}

func newOutput(string, int) (*Output, error) { return nil, notImplemented() }

func newCopy(string, io.Writer) (*Output, error) { return nil, notImplemented() }

func (output) drain() ([]byte, error) { return nil, notImplemented() }

func (output) close() {}

func killTree(int) error { return notImplemented() }

type input struct{}

func newInput(string) (*Input, error) { return nil, notImplemented() }

func openInput(string) (*Input, error) { return nil, notImplemented() }

func (input) copy(io.Reader) error { return notImplemented() }

func (input) close() {}

type tap struct{}

func newTap(string, io.Writer) (*Tap, error) { return nil, notImplemented() }

func (tap) copy() error { return notImplemented() }

func (tap) close() {}
