package seccomp

import (
	"errors"
	"fmt"
	"strconv"
)

// ScmpAction is what becomes of a system call: the action in the low 16 bits, its return code in the 16 above.
type ScmpAction uint

const (
	// ActInvalid is no action: the zero value.
	ActInvalid ScmpAction = iota
	// ActKillThread kills the thread that made the call.
	ActKillThread
	// ActTrap sends the thread SIGSYS.
	ActTrap
	// ActNotify asks whoever listens on the filter's notification descriptor.
	ActNotify
	// ActErrno fails the call with the errno set by SetReturnCode.
	ActErrno
	// ActTrace tells the tracer, with the value set by SetReturnCode.
	ActTrace
	// ActAllow lets the call through.
	ActAllow
	// ActLog logs the call and lets it through.
	ActLog
	// ActKillProcess kills the whole process.
	ActKillProcess
	// ActKill is the old name of ActKillThread.
	ActKill = ActKillThread
)

// SetReturnCode returns the action with this return code; actions without one (all but ActErrno and ActTrace) stay as they are.
func (a ScmpAction) SetReturnCode(code int16) ScmpAction {
	if base := a & 0xffff; base == ActErrno || base == ActTrace {
		return base | ScmpAction(uint16(code))<<16
	}
	return a
}

// GetReturnCode returns what SetReturnCode set.
func (a ScmpAction) GetReturnCode() int16 { return int16(a >> 16) }

// ret is the value the filter returns to the kernel for this action (SECCOMP_RET_* of linux/seccomp.h).
func (a ScmpAction) ret() (uint32, error) {
	code := uint32(a >> 16)
	switch base := a & 0xffff; {
	case base == ActErrno:
		return 0x00050000 | code, nil
	case base == ActTrace:
		return 0x7ff00000 | code, nil
	case code != 0:
	case base == ActKillThread:
		return 0x00000000, nil
	case base == ActTrap:
		return 0x00030000, nil
	case base == ActNotify:
		return 0x7fc00000, nil
	case base == ActLog:
		return 0x7ffc0000, nil
	case base == ActAllow:
		return 0x7fff0000, nil
	case base == ActKillProcess:
		return 0x80000000, nil
	}
	return 0, fmt.Errorf("unrecognized action %#x", uint(a))
}

// ScmpCompareOp compares an argument of a system call.
type ScmpCompareOp uint

const (
	// CompareInvalid is no comparison: the zero value.
	CompareInvalid ScmpCompareOp = iota
	// CompareNotEqual is argument != Operand1.
	CompareNotEqual
	// CompareLess is argument < Operand1, without sign as all comparisons here.
	CompareLess
	// CompareLessOrEqual is argument <= Operand1.
	CompareLessOrEqual
	// CompareEqual is argument == Operand1.
	CompareEqual
	// CompareGreaterEqual is argument >= Operand1.
	CompareGreaterEqual
	// CompareGreater is argument > Operand1.
	CompareGreater
	// CompareMaskedEqual is argument & Operand1 == Operand2 & Operand1.
	CompareMaskedEqual
)

// ScmpCondition is one comparison of one argument.
type ScmpCondition struct {
	Argument uint          `json:"argument,omitempty"`
	Op       ScmpCompareOp `json:"operator,omitempty"`
	Operand1 uint64        `json:"operand_one,omitempty"`
	Operand2 uint64        `json:"operand_two,omitempty"`
}

const maxArguments = 6

// MakeCondition returns the condition that argument arg (0 to 5) compares so with values: one, or for CompareMaskedEqual the
// mask and what the masked argument must be.
func MakeCondition(arg uint, op ScmpCompareOp, values ...uint64) (ScmpCondition, error) {
	c := ScmpCondition{Argument: arg, Op: op}
	switch {
	case op < CompareNotEqual || op > CompareMaskedEqual:
		return ScmpCondition{}, fmt.Errorf("unrecognized comparison operator %#x", uint(op))
	case arg >= maxArguments:
		return ScmpCondition{}, fmt.Errorf("syscalls only have up to %d arguments (%d given)", maxArguments, arg)
	case len(values) == 0 || len(values) > 2:
		return ScmpCondition{}, fmt.Errorf("conditions need one or two values (%d given)", len(values))
	}
	c.Operand1 = values[0]
	if len(values) == 2 {
		c.Operand2 = values[1]
	}
	return c, nil
}

// ErrSyscallDoesNotExist says that no architecture known here has a system call of this name.
var ErrSyscallDoesNotExist = errors.New("could not resolve syscall name")

// ScmpSyscall is the number of a system call on one architecture. Calls that only other architectures have are negative
// numbers, which stand for the name and hit nothing on this one.
type ScmpSyscall int32

// GetSyscallFromName returns the number of a call on this machine.
func GetSyscallFromName(name string) (ScmpSyscall, error) {
	return GetSyscallFromNameByArch(name, ArchNative)
}

// GetSyscallFromNameByArch returns the number of a call on an architecture.
func GetSyscallFromNameByArch(name string, arch ScmpArch) (ScmpSyscall, error) {
	abi, err := lookup(arch)
	if err != nil {
		return 0, err
	}
	i, ok := find(name)
	if !ok {
		return 0, fmt.Errorf("%w: %s", ErrSyscallDoesNotExist, strconv.Quote(name))
	}
	if n := abi.numbers[i]; n >= 0 {
		return ScmpSyscall(n), nil
	}
	return pseudo(i), nil
}

// pseudo is the negative number of the call names[i]. Those above -100 mean other things to libseccomp and the kernel.
func pseudo(i int) ScmpSyscall { return ScmpSyscall(-100 - i) }

// find returns the index of a name in names.
func find(name string) (int, bool) {
	low, high := 0, len(names)
	for low < high {
		mid := int(uint(low+high) >> 1)
		if names[mid] < name {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low, low < len(names) && names[low] == name
}
