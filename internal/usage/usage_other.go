//go:build !linux

package usage

import (
	"fmt"
	"runtime"

	"github.com/containerd/errdefs"
)

func notImplemented() error {
	return fmt.Errorf("reading what processes use is not implemented on %s: %w", runtime.GOOS, errdefs.ErrNotImplemented)
}

type host struct{}

func newHost() (*Host, error) { return nil, notImplemented() }

func (host) find(int) (*Cgroup, error) { return nil, notImplemented() }

type cgroup struct{}

func (cgroup) parent(string) *Cgroup { return nil }

func (cgroup) read() (Usage, error) { return Usage{}, notImplemented() }

func (cgroup) readAll() (Usage, error) { return Usage{}, notImplemented() }
