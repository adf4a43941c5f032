package spec

import (
	"fmt"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// DefaultSeccomp adds the profile that Docker uses, fitted to the capabilities set so far and to this host's processor.
func DefaultSeccomp() Opt {
	return func(s *specs.Spec) (err error) {
		if s.Linux == nil {
			return nil
		}
		if s.Linux.Seccomp, err = seccomp.GetDefaultProfile(s); err != nil {
			return fmt.Errorf("cannot build the default seccomp profile: %w", err)
		}
		return nil
	}
}
