package seccomp

import (
	"fmt"
	"runtime"
	"strings"
)

// ScmpArch is an ABI of system calls.
type ScmpArch uint

const (
	// ArchInvalid is no architecture: the zero value.
	ArchInvalid ScmpArch = iota
	// ArchNative is the architecture this program was built for.
	ArchNative
	// ArchX86 is 32-bit x86.
	ArchX86
	// ArchAMD64 is 64-bit x86.
	ArchAMD64
	// ArchX32 is 64-bit x86 with 32-bit pointers.
	ArchX32
	// ArchARM is 32-bit ARM (EABI).
	ArchARM
	// ArchARM64 is 64-bit ARM.
	ArchARM64
	// ArchMIPS is 32-bit MIPS (o32).
	ArchMIPS
	// ArchMIPS64 is 64-bit MIPS (n64).
	ArchMIPS64
	// ArchMIPS64N32 is 64-bit MIPS with 32-bit pointers (n32).
	ArchMIPS64N32
	// ArchMIPSEL is little-endian ArchMIPS.
	ArchMIPSEL
	// ArchMIPSEL64 is little-endian ArchMIPS64.
	ArchMIPSEL64
	// ArchMIPSEL64N32 is little-endian ArchMIPS64N32.
	ArchMIPSEL64N32
	// ArchPPC is 32-bit POWER.
	ArchPPC
	// ArchPPC64 is 64-bit POWER.
	ArchPPC64
	// ArchPPC64LE is little-endian ArchPPC64.
	ArchPPC64LE
	// ArchS390 is 31-bit s390.
	ArchS390
	// ArchS390X is 64-bit s390.
	ArchS390X
	// ArchPARISC is not supported; the name keeps the numbers of those after it.
	ArchPARISC
	// ArchPARISC64 is not supported.
	ArchPARISC64
	// ArchRISCV64 is 64-bit RISC-V.
	ArchRISCV64
	// ArchLOONGARCH64 is 64-bit LoongArch.
	ArchLOONGARCH64
)

// An abi is what a filter must know of an architecture.
type abi struct {
	arch    ScmpArch
	name    string
	audit   uint32 // AUDIT_ARCH_* of linux/audit.h, what the kernel puts into seccomp_data.arch
	wide    bool   // arguments are compared in all 64 bits, else in the lower 32
	big     bool   // big-endian
	numbers *table
}

const (
	auditAMD64 = 0xc000003e
	x32Bit     = 1 << 30 // __X32_SYSCALL_BIT: in the number of each x32 call
)

var abis = [...]abi{
	{ArchX86, "x86", 0x40000003, false, false, &x86Table},
	{ArchAMD64, "amd64", auditAMD64, true, false, &amd64Table},
	{ArchX32, "x32", auditAMD64, false, false, &x32Table},
	{ArchARM, "arm", 0x40000028, false, false, &armTable},
	{ArchARM64, "arm64", 0xc00000b7, true, false, &arm64Table},
	{ArchMIPS, "mips", 0x00000008, false, true, &mipsTable},
	{ArchMIPS64, "mips64", 0x80000008, true, true, &mips64Table},
	{ArchMIPS64N32, "mips64n32", 0xa0000008, false, true, &mips64n32Table},
	{ArchMIPSEL, "mipsel", 0x40000008, false, false, &mipsTable},
	{ArchMIPSEL64, "mipsel64", 0xc0000008, true, false, &mips64Table},
	{ArchMIPSEL64N32, "mipsel64n32", 0xe0000008, false, false, &mips64n32Table},
	{ArchPPC, "ppc", 0x00000014, false, true, &ppcTable},
	{ArchPPC64, "ppc64", 0x80000015, true, true, &ppc64Table},
	{ArchPPC64LE, "ppc64le", 0xc0000015, true, false, &ppc64Table},
	{ArchS390, "s390", 0x00000016, false, true, &s390Table},
	{ArchS390X, "s390x", 0x80000016, true, true, &s390xTable},
	{ArchRISCV64, "riscv64", 0xc00000f3, true, false, &riscv64Table},
	{ArchLOONGARCH64, "loong64", 0xc0000102, true, false, &loong64Table},
}

// lookup returns what is known of an architecture.
func lookup(a ScmpArch) (*abi, error) {
	if a == ArchNative {
		native, err := GetNativeArch()
		if err != nil {
			return nil, err
		}
		a = native
	}
	for i := range abis {
		if abis[i].arch == a {
			return &abis[i], nil
		}
	}
	return nil, fmt.Errorf("architecture %#x is not supported", uint(a))
}

// GetArchFromString returns the architecture of a name, which String returns or which is one of the usual others.
func GetArchFromString(name string) (ScmpArch, error) {
	name = strings.ToLower(name)
	switch name {
	case "x86-64", "x86_64", "x64":
		return ArchAMD64, nil
	case "aarch64":
		return ArchARM64, nil
	case "loongarch64":
		return ArchLOONGARCH64, nil
	}
	for i := range abis {
		if abis[i].name == name {
			return abis[i].arch, nil
		}
	}
	return ArchInvalid, fmt.Errorf("cannot convert unrecognized string %q", name)
}

// String returns the architecture's name.
func (a ScmpArch) String() string {
	for i := range abis {
		if abis[i].arch == a {
			return abis[i].name
		}
	}
	if a == ArchNative {
		return "native"
	}
	return fmt.Sprintf("Unknown architecture %#x", uint(a))
}

// GetNativeArch returns the architecture this program was built for.
func GetNativeArch() (ScmpArch, error) {
	switch runtime.GOARCH {
	case "386":
		return ArchX86, nil
	case "mips64le":
		return ArchMIPSEL64, nil
	case "mipsle":
		return ArchMIPSEL, nil
	}
	return GetArchFromString(runtime.GOARCH)
}
