package bringup

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"runtime"
	"slices"
	"sync"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/platform/linux/child"
)

// filter is a seccomp filter as the kernel takes it.
type filter struct {
	program []unix.SockFilter
	flags   int
}

// filters are those compiled lately, by what they were compiled from: clients send the same few with each container.
var filters struct {
	sync.Mutex
	compiled map[[sha256.Size]byte]*filter
}

const maxFilters = 16

var filterFlags = map[specs.LinuxSeccompFlag]int{
	"SECCOMP_FILTER_FLAG_TSYNC":     0, // there is one thread
	specs.LinuxSeccompFlagLog:       unix.SECCOMP_FILTER_FLAG_LOG,
	specs.LinuxSeccompFlagSpecAllow: unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
}

func plainSeccomp(c *configs.Seccomp) string {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		return "seccomp on this architecture"
	}
	if c.ListenerPath != "" || c.DefaultAction == configs.Notify {
		return "seccomp with a listener"
	}
	for _, s := range c.Syscalls {
		if s == nil || s.Action == configs.Notify {
			return "seccomp with a listener"
		}
	}
	for _, f := range c.Flags {
		if _, ok := filterFlags[f]; !ok {
			return "an unusual flag of seccomp"
		}
	}
	return ""
}

// load installs the filter (seccomp(2)).
func (b *builder) load(f *filter) {
	program := child.Data(b.Program, struct { // struct sock_fprog of seccomp(2)
		length uint16
		filter uintptr
	}{uint16(len(f.program)), child.Data(b.Program, f.program...)})
	b.Call("load the seccomp filter", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, f.flags, program)
}

// seccompFilter answers nil when there is none.
func seccompFilter(c *configs.Seccomp) (*filter, error) {
	if c == nil {
		return nil, nil
	}
	key := seccompKey(c)
	filters.Lock()
	defer filters.Unlock()
	if f := filters.compiled[key]; f != nil {
		return f, nil
	}
	f, err := compileSeccomp(c)
	if err != nil {
		return nil, fmt.Errorf("cannot compile the seccomp filter: %w", err)
	}
	if len(filters.compiled) >= maxFilters || filters.compiled == nil {
		filters.compiled = map[[sha256.Size]byte]*filter{}
	}
	filters.compiled[key] = f
	return f, nil
}

// seccompKey is a digest of all that compileSeccomp looks at.
func seccompKey(c *configs.Seccomp) (key [sha256.Size]byte) {
	h := digest{Hash: sha256.New()}
	h.numbers(uint64(c.DefaultAction), deref(c.DefaultErrnoRet), uint64(len(c.Architectures)), uint64(len(c.Flags)))
	for _, a := range c.Architectures {
		h.text(a)
	}
	for _, f := range c.Flags {
		h.text(string(f))
	}
	for _, s := range c.Syscalls {
		h.text(s.Name)
		h.numbers(uint64(s.Action), deref(s.ErrnoRet), uint64(len(s.Args)))
		for _, a := range s.Args {
			h.numbers(uint64(a.Index), uint64(a.Op), a.Value, a.ValueTwo)
		}
	}
	h.flush()
	return [sha256.Size]byte(h.Sum(nil))
}

// digest gathers what is hashed, for a hash likes few and large writes.
type digest struct {
	hash.Hash
	pending []byte
}

func (d *digest) text(s string) {
	d.numbers(uint64(len(s)))
	d.pending = append(d.pending, s...)
}

func (d *digest) numbers(all ...uint64) {
	for _, n := range all {
		d.pending = binary.NativeEndian.AppendUint64(d.pending, n)
	}
}

func (d *digest) flush() { d.Write(d.pending) }

// deref tells no value from all values.
func deref(n *uint) uint64 {
	if n == nil {
		return 1 << 63
	}
	return uint64(*n)
}

func compileSeccomp(c *configs.Seccomp) (*filter, error) {
	action, err := seccompAction(c.DefaultAction, c.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	f, err := libseccomp.NewFilter(action)
	if err != nil {
		return nil, err
	}
	defer f.Release()
	for _, name := range c.Architectures {
		arch, err := libseccomp.GetArchFromString(name)
		if err != nil {
			return nil, err
		}
		if err := f.AddArch(arch); err != nil {
			return nil, err
		}
	}
	for _, s := range c.Syscalls {
		if err := addRule(f, s, action); err != nil {
			return nil, fmt.Errorf("system call %s: %w", s.Name, err)
		}
	}
	code, err := f.ExportBPFMem()
	if err != nil {
		return nil, err
	}
	result := &filter{}
	if result.program, err = unknownCalls(c); err != nil {
		return nil, err
	}
	for i := 0; i+8 <= len(code); i += 8 {
		result.program = append(result.program, unix.SockFilter{
			Code: binary.NativeEndian.Uint16(code[i:]), Jt: code[i+2], Jf: code[i+3], K: binary.NativeEndian.Uint32(code[i+4:]),
		})
	}
	for _, flag := range c.Flags {
		result.flags |= filterFlags[flag]
	}
	return result, nil
}

func seccompAction(a configs.Action, errno *uint) (libseccomp.ScmpAction, error) {
	code := int16(unix.EPERM)
	if errno != nil {
		code = int16(*errno)
	}
	switch a {
	case configs.Kill, configs.KillThread:
		return libseccomp.ActKillThread, nil
	case configs.KillProcess:
		return libseccomp.ActKillProcess, nil
	case configs.Errno:
		return libseccomp.ActErrno.SetReturnCode(code), nil
	case configs.Trace:
		return libseccomp.ActTrace.SetReturnCode(code), nil
	case configs.Trap:
		return libseccomp.ActTrap, nil
	case configs.Allow:
		return libseccomp.ActAllow, nil
	case configs.Log:
		return libseccomp.ActLog, nil
	}
	return libseccomp.ActInvalid, fmt.Errorf("unknown action %d", a)
}

var seccompOperators = map[configs.Operator]libseccomp.ScmpCompareOp{
	configs.EqualTo: libseccomp.CompareEqual, configs.NotEqualTo: libseccomp.CompareNotEqual,
	configs.GreaterThan: libseccomp.CompareGreater, configs.GreaterThanOrEqualTo: libseccomp.CompareGreaterEqual,
	configs.LessThan: libseccomp.CompareLess, configs.LessThanOrEqualTo: libseccomp.CompareLessOrEqual,
	configs.MaskEqualTo: libseccomp.CompareMaskedEqual,
}

// addRule adds one system call's. Calls that are not known are left out, and two conditions on one argument mean either.
func addRule(f *libseccomp.ScmpFilter, s *configs.Syscall, otherwise libseccomp.ScmpAction) error {
	action, err := seccompAction(s.Action, s.ErrnoRet)
	if err != nil || action == otherwise {
		return err
	}
	number, err := libseccomp.GetSyscallFromName(s.Name)
	if err != nil {
		return nil
	}
	if len(s.Args) == 0 {
		return f.AddRule(number, action)
	}
	var all []libseccomp.ScmpCondition
	var named []uint
	either := false
	for _, a := range s.Args {
		op, ok := seccompOperators[a.Op]
		if !ok {
			return fmt.Errorf("unknown operator %d", a.Op)
		}
		cond, err := libseccomp.MakeCondition(a.Index, op, a.Value, a.ValueTwo)
		if err != nil {
			return err
		}
		either = either || slices.Contains(named, a.Index)
		named, all = append(named, a.Index), append(all, cond)
	}
	if !either {
		return f.AddRuleConditional(number, action, all)
	}
	for _, cond := range all {
		if err := f.AddRuleConditional(number, action, []libseccomp.ScmpCondition{cond}); err != nil {
			return err
		}
	}
	return nil
}
