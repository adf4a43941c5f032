//go:build !windows

package server

import (
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"
)

func checkOtherOptions(a *anypb.Any) error {
	return fmt.Errorf("cannot use options of type %q: only containerd.runc.v1.Options: %w", a.TypeUrl, errdefs.ErrInvalidArgument)
}
