package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/windows"

	"github.com/slipwayd/slipway/internal/ipc"
)

func checkPrivileges() error {
	if !windows.GetCurrentProcessToken().IsElevated() {
		return errors.New("must run as administrator, because it makes layers and containers; use an elevated prompt, or slipwayd service install")
	}
	return nil
}

// lockDir makes this the only daemon on a directory: root or state, as what names. The lock ends with the process, however it ends.
func lockDir(what, dir string) (unlock func(), err error) {
	if err := makePrivate(dir); err != nil {
		return nil, fmt.Errorf("cannot make the %s directory: %w", what, err)
	}
	f, err := ipc.TryLock(filepath.Join(dir, "lock"))
	if errdefs.IsUnavailable(err) {
		return nil, fmt.Errorf("another slipwayd uses the %s %s; stop it or choose another --%[1]s: %[3]w", what, dir, err)
	} else if err != nil {
		return nil, fmt.Errorf("cannot lock the %s directory: %w", what, err)
	}
	return func() { _ = f.Close() }, nil
}

// dirAccess lets administrators and the system in, and nobody else, here and below (Security Descriptor Definition Language, [MS-DTYP] 2.5.1).
// %ProgramData%, where our directories are, lets every user make files.
const dirAccess = "O:BAD:P(A;OICI;GA;;;BA)(A;OICI;GA;;;SY)"

// makePrivate makes a directory that only administrators and the system can use, and what is missing above it alike. One that is there must
// belong to them, or to the user that this runs as: another may have been quicker to make it, to read and change what we keep.
func makePrivate(dir string) error {
	err := checkOwner(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if parent := filepath.Dir(dir); parent != dir {
		if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) {
			if err := makePrivate(parent); err != nil {
				return err
			}
		}
	}
	sd, err := windows.SecurityDescriptorFromString(dirAccess)
	if err != nil {
		return err
	}
	name, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return err
	}
	attributes := windows.SecurityAttributes{SecurityDescriptor: sd}
	attributes.Length = uint32(unsafe.Sizeof(attributes))
	if err := windows.CreateDirectory(name, &attributes); err != nil && !errors.Is(err, windows.ERROR_ALREADY_EXISTS) {
		return fmt.Errorf("mkdir %s: %w", dir, err)
	}
	return checkOwner(dir)
}

// checkOwner refuses a directory of somebody whom we do not trust.
func checkOwner(dir string) error {
	st, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	sd, err := windows.GetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT, windows.OWNER_SECURITY_INFORMATION)
	if err != nil {
		return fmt.Errorf("cannot tell whose %s is: %w", dir, err)
	}
	owner, _, err := sd.Owner()
	if err != nil {
		return fmt.Errorf("cannot tell whose %s is: %w", dir, err)
	}
	if owner.IsWellKnown(windows.WinBuiltinAdministratorsSid) || owner.IsWellKnown(windows.WinLocalSystemSid) {
		return nil
	}
	me, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err == nil && me.User.Sid.Equals(owner) {
		return nil
	}
	return fmt.Errorf("%s belongs to %s, and neither to the administrators nor to the system: look what is in it and remove it, or choose another directory", dir, owner)
}

func settle() {}
