package bringup

import (
	"github.com/opencontainers/runc/libcontainer/configs"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// auditArchs are the architectures that this program is built for know, by the kernel's numbers (audit.h).
var auditArchs = map[libseccomp.ScmpArch]uint32{
	libseccomp.ArchX86: unix.AUDIT_ARCH_I386, libseccomp.ArchAMD64: unix.AUDIT_ARCH_X86_64, libseccomp.ArchX32: unix.AUDIT_ARCH_X86_64,
	libseccomp.ArchARM: unix.AUDIT_ARCH_ARM, libseccomp.ArchARM64: unix.AUDIT_ARCH_AARCH64,
}

const x32Bit = 1 << 30 // of a call's number

// unknownCalls is the head of a filter that answers ENOSYS for calls newer than all that the profile names, so that
// programs fall back to older ones as they do on older kernels, and not EPERM, which they take for final. (libcontainer's
// idea.) A profile that allows what it does not name has none.
func unknownCalls(c *configs.Seccomp) ([]unix.SockFilter, error) {
	switch c.DefaultAction {
	case configs.Allow, configs.Log, configs.Trace:
		return nil, nil
	}
	native, err := libseccomp.GetNativeArch()
	if err != nil {
		return nil, err
	}
	archs := []libseccomp.ScmpArch{native}
	for _, name := range c.Architectures {
		arch, err := libseccomp.GetArchFromString(name)
		if err != nil {
			return nil, err
		}
		archs = append(archs, arch)
	}
	newest := map[libseccomp.ScmpArch]uint32{}
	for _, arch := range archs {
		for _, s := range c.Syscalls {
			if n, err := libseccomp.GetSyscallFromNameByArch(s.Name, arch); err == nil && n > 0 {
				newest[arch] = max(newest[arch], uint32(n))
			}
		}
	}
	var head []unix.SockFilter
	for arch, audit := range auditArchs {
		if last, ok := newest[arch]; ok && arch != libseccomp.ArchX32 {
			head = append(head, unknownOf(audit, last, newest)...)
		}
	}
	if head == nil {
		return nil, nil
	}
	head = append([]unix.SockFilter{load(archOffset)}, head...)
	for i := range head {
		if head[i].Code == toFilter {
			head[i].Code, head[i].K = unix.BPF_JMP|unix.BPF_JA, uint32(len(head)-i-1)
		}
	}
	return head, nil
}

// unknownOf is one architecture's part. It is passed over by calls of others, and what it lets by goes to the filter.
func unknownOf(audit, last uint32, newest map[libseccomp.ScmpArch]uint32) []unix.SockFilter {
	enosys := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)}
	var part []unix.SockFilter
	if audit == unix.AUDIT_ARCH_X86_64 {
		if x32, ok := newest[libseccomp.ArchX32]; ok {
			part = []unix.SockFilter{
				jump(unix.BPF_JSET, x32Bit, 0, 2),
				jump(unix.BPF_JGT, x32, 2, 0),
				{Code: toFilter},
			}
		} else {
			part = []unix.SockFilter{jump(unix.BPF_JSET, x32Bit, 2, 0)}
		}
	}
	part = append(part, jump(unix.BPF_JGT, last, 0, 1), enosys, unix.SockFilter{Code: toFilter})
	part = append([]unix.SockFilter{load(numberOffset)}, part...)
	return append([]unix.SockFilter{jump(unix.BPF_JEQ, audit, 0, uint8(len(part)))}, part...)
}

// Offsets in struct seccomp_data (seccomp(2)), and a code that is no instruction's.
const (
	numberOffset = 0
	archOffset   = 4
	toFilter     = 0xffff
)

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func jump(test uint16, k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | test, K: k, Jt: yes, Jf: no}
}
