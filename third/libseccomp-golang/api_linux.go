package seccomp

import (
	"fmt"
	"runtime"
	"sync"
	"syscall"
)

// The version of libseccomp whose behaviour this package has.
const verMajor, verMinor, verMicro = 2, 6, 0

// GetLibraryVersion returns the version of libseccomp that this package stands for.
func GetLibraryVersion() (major, minor, micro uint) { return verMajor, verMinor, verMicro }

// VersionError says that this kernel is too old for an operation.
type VersionError struct {
	op             string
	curAPI, minAPI uint
}

func (e VersionError) Error() string {
	return fmt.Sprintf("%s requires API level >= %d (the kernel has %d)", e.op, e.minAPI, e.curAPI)
}

// GetAPI returns the API level of this kernel as seccomp_api_get(3) lists them.
func GetAPI() (uint, error) { return apiLevel(), nil }

// apiLevel asks the kernel which filter flags it knows, in the order in which they came. For one it knows it goes on to the
// filter, which is a null pointer here: EFAULT. (A level 6 kernel cannot be told from 5 by a flag alone: both flags
// together are refused by 5.)
var apiLevel = sync.OnceValue(func() uint {
	level := uint(1)
	for _, flags := range []uintptr{flagTsync, flagLog, flagSpecAllow, flagNewListener, flagTsync | flagNewListener | flagTsyncEsrch, flagNewListener | flagWaitKillable} {
		if _, _, errno := syscall.RawSyscall(sysSeccomp(), setModeFilter, flags, 0); errno != syscall.EFAULT {
			break
		}
		level++
	}
	return level
})

// Of linux/seccomp.h.
const (
	setModeFilter    = 1
	flagTsync        = 1 << 0
	flagLog          = 1 << 1
	flagSpecAllow    = 1 << 2
	flagNewListener  = 1 << 3
	flagTsyncEsrch   = 1 << 4
	flagWaitKillable = 1 << 5
)

// sysSeccomp is the number of seccomp(2) here.
func sysSeccomp() uintptr {
	n, err := GetSyscallFromName("seccomp")
	if err != nil {
		panic("no number for seccomp(2) on " + runtime.GOARCH)
	}
	return uintptr(n)
}

func needAPI(op string, level uint) error {
	if have := apiLevel(); have < level {
		return &VersionError{op: op, curAPI: have, minAPI: level}
	}
	return nil
}
