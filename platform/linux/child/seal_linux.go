package child

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// seals forbid whatever changes a memfd (memfd_create(2)).
const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// Sealed says whether this process runs from a file that nobody can change. Only then may a child exec what a container
// says: until that has happened /proc/self/exe is this process's program, and a name such as "#!/proc/self/exe" has the kernel
// run it inside the container, which then could open it for writing once nobody runs it (CVE-2019-5736).
func Sealed() bool {
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return false
	}
	defer exe.Close()
	have, err := unix.FcntlInt(exe.Fd(), unix.F_GET_SEALS, 0)
	return err == nil && have&seals == seals
}

// Seal executes this process's program anew from a sealed copy in memory, with the same arguments and environment, and does
// not come back. When that has been done already it answers nil. Call it before anything else in main.
func Seal() error {
	if Sealed() {
		name, err := unix.ByteSliceFromString(filepath.Base(os.Args[0]))
		if err != nil {
			return err
		}
		return unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0) // which was the descriptor's number
	}
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("cannot open our own program: %w", err)
	}
	defer exe.Close()
	fd, err := unix.MemfdCreate("slipway", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3
		fd, err = unix.MemfdCreate("slipway", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return fmt.Errorf("cannot make a file in memory: %w", err)
	}
	copied := os.NewFile(uintptr(fd), "sealed")
	defer copied.Close()
	if _, err := io.Copy(copied, exe); err != nil {
		return fmt.Errorf("cannot copy our own program: %w", err)
	}
	if _, err := unix.FcntlInt(copied.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("cannot seal the copy of our own program: %w", err)
	}
	err = unix.Exec(fmt.Sprintf("/proc/self/fd/%d", fd), os.Args, os.Environ())
	return fmt.Errorf("cannot execute the sealed copy of our own program: %w", err)
}
