package hcs

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/Microsoft/hcsshim"
	"github.com/containerd/errdefs"
)

func TestClassify(t *testing.T) {
	type hidden struct {
		error
		Err error
	}
	for _, test := range []struct{ err, want error }{
		{syscall.Errno(0xC037010E), errdefs.ErrNotFound},
		{&hcsshim.ContainerError{Err: syscall.Errno(0xC037010D)}, errdefs.ErrInvalidArgument},
		{fmt.Errorf("cannot: %w", &hcsshim.ProcessError{Err: syscall.Errno(5)}), errdefs.ErrPermissionDenied},
		{errors.Join(hidden{errors.New("x"), syscall.Errno(0x80004001)}, errors.New("y")), errdefs.ErrNotImplemented},
		{hcsshim.ErrAlreadyClosed, errdefs.ErrFailedPrecondition},
	} {
		if got := classify(test.err); !errors.Is(got, test.want) {
			t.Errorf("%v is %v, want %v", test.err, got, test.want)
		}
	}
	if got := classifyProgram(&hcsshim.ProcessError{Err: syscall.Errno(2)}); !errors.Is(got, errdefs.ErrInvalidArgument) {
		t.Errorf("a missing program is %v", got)
	}
	if err := errors.New("other"); classify(err) != err || classify(nil) != nil {
		t.Error("classified what is none of the service's")
	}
}
