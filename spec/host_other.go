//go:build !linux

package spec

import (
	"fmt"
	"runtime"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func errNotLinux() error {
	return fmt.Errorf("pods of Linux containers are not implemented on %s: %w", runtime.GOOS, errdefs.ErrNotImplemented)
}

// ThisHost is NotImplemented on this system.
func ThisHost() (Host, error) { return Host{}, errNotLinux() }

// LoadAppArmor is NotImplemented on this system.
func LoadAppArmor() error { return errNotLinux() }

func localSeccomp(*specs.Spec, string) error { return errNotLinux() }

func appArmorLoaded(string) bool { return false }

func selinuxLabels(SELinux) (process, mount string, err error) { return "", "", errNotLinux() }

func (d *PodDocument) devices(*specs.Spec) error { return nil }
