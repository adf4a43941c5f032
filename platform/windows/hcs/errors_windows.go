package hcs

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"syscall"

	"github.com/Microsoft/hcsshim"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/windows"
)

// Codes of the service (winerror.h, HCS_E_*) as hcsshim's API gives them, and as its successor does.
const (
	errNotThere        = syscall.Errno(0x80004001) // E_NOTIMPL
	errPending         = syscall.Errno(0xC0370103)
	errInvalidState    = syscall.Errno(0xC0370105)
	errUnknownMessage  = syscall.Errno(0xC037010B)
	errInvalidJSON     = syscall.Errno(0xC037010D)
	errSystemNotFound  = syscall.Errno(0xC037010E)
	errSystemExists    = syscall.Errno(0xC037010F)
	errSystemStopped   = syscall.Errno(0xC0370110)
	errSystemStopped2  = syscall.Errno(0x80370110)
	errProcessStopped  = syscall.Errno(0x8037011F)
	errNoSuchAccount   = syscall.Errno(1332) // ERROR_NONE_MAPPED
	errNotHere         = syscall.Errno(1168) // ERROR_NOT_FOUND
	errBadImage        = syscall.Errno(193)  // ERROR_BAD_EXE_FORMAT
	errNoSuchDirectory = syscall.Errno(267)  // ERROR_DIRECTORY
	errNotConnected    = syscall.Errno(1167) // ERROR_DEVICE_NOT_CONNECTED
)

var kinds = map[syscall.Errno]error{
	errInvalidState: errdefs.ErrFailedPrecondition,
	errNotThere:     errdefs.ErrNotImplemented, errUnknownMessage: errdefs.ErrNotImplemented,
	errInvalidJSON:    errdefs.ErrInvalidArgument,
	errSystemNotFound: errdefs.ErrNotFound, errNotHere: errdefs.ErrNotFound,
	errSystemExists:  errdefs.ErrAlreadyExists,
	errSystemStopped: errdefs.ErrNotFound, errSystemStopped2: errdefs.ErrNotFound, errProcessStopped: errdefs.ErrNotFound,
	windows.ERROR_INVALID_HANDLE: errdefs.ErrFailedPrecondition,
	windows.ERROR_FILE_NOT_FOUND: errdefs.ErrNotFound, windows.ERROR_PATH_NOT_FOUND: errdefs.ErrNotFound,
	windows.ERROR_ACCESS_DENIED: errdefs.ErrPermissionDenied,
	windows.ERROR_INVALID_DATA:  errdefs.ErrInvalidArgument, windows.ERROR_INVALID_PARAMETER: errdefs.ErrInvalidArgument,
	windows.ERROR_NOT_SUPPORTED: errdefs.ErrNotImplemented, windows.ERROR_PROC_NOT_FOUND: errdefs.ErrNotImplemented,
}

// ofProgram are codes that say of CreateProcess what is wrong with the program, its directory or its user.
var ofProgram = []syscall.Errno{
	windows.ERROR_FILE_NOT_FOUND, windows.ERROR_PATH_NOT_FOUND, windows.ERROR_ACCESS_DENIED, windows.ERROR_LOGON_FAILURE,
	errBadImage, errNoSuchDirectory, errNoSuchAccount,
}

// classifyProgram is classify for CreateProcess.
func classifyProgram(err error) error {
	if slices.Contains(ofProgram, code(err)) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return classify(err)
}

// code finds the service's code in an error of ours or of hcsshim's; 0 when there is none.
func code(err error) syscall.Errno {
	for err != nil {
		var n syscall.Errno
		if errors.As(err, &n) {
			return n
		}
		err = cause(err)
	}
	return 0
}

// cause opens hcsshim's errors: they keep what they are about in a field Err, most of them without an Unwrap, and some are of types that
// cannot be named here.
func cause(err error) error {
	if several, ok := err.(interface{ Unwrap() []error }); ok && len(several.Unwrap()) > 0 {
		return several.Unwrap()[0]
	}
	if v := reflect.Indirect(reflect.ValueOf(err)); v.Kind() == reflect.Struct {
		if f := v.FieldByName("Err"); f.IsValid() && f.CanInterface() {
			inner, _ := f.Interface().(error)
			return inner
		}
	}
	return errors.Unwrap(err)
}

func isPending(err error) bool { return code(err) == errPending }

// classify gives the service's errors the kinds that callers ask for.
func classify(err error) error {
	if err == nil {
		return nil
	}
	if kind := kinds[code(err)]; kind != nil {
		return fmt.Errorf("%w: %w", err, kind)
	}
	if hcsshim.IsAlreadyClosed(err) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return err
}
