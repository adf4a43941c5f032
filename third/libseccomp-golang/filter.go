package seccomp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
)

var (
	errBadFilter = errors.New("filter is invalid or uninitialized")
	errDefault   = errors.New("requested action matches default action of filter")
)

// A ScmpFilter is a set of rules for some architectures, of which the native one is always there at first. It is for one
// goroutine at a time.
type ScmpFilter struct {
	valid              bool
	unmatched, badArch ScmpAction
	sections           []section
	byNumber           map[int32]int // native number to index in names; made when first needed
	noNewPrivs, log    bool
	ssb, waitKill      bool
	optimize           int
}

// NewFilter returns a filter that gives defaultAction to calls that no rule matches, and kills on other architectures.
func NewFilter(defaultAction ScmpAction) (*ScmpFilter, error) {
	if _, err := defaultAction.ret(); err != nil {
		return nil, err
	}
	f := &ScmpFilter{valid: true, unmatched: defaultAction, badArch: ActKillThread, noNewPrivs: true, optimize: 1}
	return f, f.AddArch(ArchNative)
}

// IsValid says whether the filter is of NewFilter and not yet released.
func (f *ScmpFilter) IsValid() bool { return f.valid }

// Release ends the use of the filter.
func (f *ScmpFilter) Release() { *f = ScmpFilter{} }

// AddArch adds an architecture, without the rules added before. Adding it again changes nothing.
func (f *ScmpFilter) AddArch(arch ScmpArch) error {
	s, err := lookup(arch)
	switch {
	case err != nil:
		return err
	case !f.valid:
		return errBadFilter
	}
	for _, have := range f.sections {
		if have.arch == s.arch {
			return nil
		}
		if have.big != s.big {
			return fmt.Errorf("architectures %v and %v differ in byte order: %w", have.arch, arch, syscall.EDOM)
		}
	}
	f.sections = append(f.sections, section{abi: s})
	return nil
}

// RemoveArch removes an architecture with its rules. One that is not there is no error.
func (f *ScmpFilter) RemoveArch(arch ScmpArch) error {
	s, err := lookup(arch)
	switch {
	case err != nil:
		return err
	case !f.valid:
		return errBadFilter
	}
	f.sections = slices.DeleteFunc(f.sections, func(have section) bool { return have.arch == s.arch })
	return nil
}

// IsArchPresent says whether the filter has the architecture.
func (f *ScmpFilter) IsArchPresent(arch ScmpArch) (bool, error) {
	s, err := lookup(arch)
	switch {
	case err != nil:
		return false, err
	case !f.valid:
		return false, errBadFilter
	}
	return slices.ContainsFunc(f.sections, func(have section) bool { return have.arch == s.arch }), nil
}

// AddRule adds a rule for all calls of this number, and on the filter's other architectures for the call of the same name.
func (f *ScmpFilter) AddRule(call ScmpSyscall, action ScmpAction) error {
	return f.AddRuleConditional(call, action, nil)
}

// AddRuleConditional adds a rule for calls of this number that meet all conditions, at most one for each argument. A rule
// that differs from an older one only in its action is EEXIST.
func (f *ScmpFilter) AddRuleConditional(call ScmpSyscall, action ScmpAction, conds []ScmpCondition) error {
	if !f.valid {
		return errBadFilter
	}
	ret, err := action.ret()
	if err != nil {
		return err
	}
	if action == f.unmatched {
		return errDefault
	}
	conds = slices.Clone(conds)
	slices.SortFunc(conds, func(a, b ScmpCondition) int { return int(a.Argument) - int(b.Argument) })
	for i, c := range conds {
		if _, err := MakeCondition(c.Argument, c.Op, c.Operand1, c.Operand2); err != nil {
			return err
		}
		if i > 0 && conds[i-1].Argument == c.Argument {
			return errors.New("two checks on same syscall argument")
		}
	}
	name, err := f.identify(call)
	if err != nil {
		return err
	}
	for _, s := range f.sections {
		for r := range s.expand(name, rule{number: int32(call), action: ret, conds: conds}) {
			if s.contradicts(r) {
				return fmt.Errorf("syscall %d has a rule with the same conditions and another action: %w", call, syscall.EEXIST)
			}
		}
	}
	for i := range f.sections {
		s := &f.sections[i]
		for r := range s.expand(name, rule{number: int32(call), action: ret, conds: conds}) {
			s.rules = append(s.rules, r)
		}
	}
	return nil
}

// identify returns the index in names of a native number or pseudo number, or -1 for a number without a name, which only a
// filter for the native architecture alone can have.
func (f *ScmpFilter) identify(call ScmpSyscall) (int, error) {
	if i := int(pseudo(0) - call); call < 0 {
		if i >= 0 && i < len(names) {
			return i, nil
		}
		return 0, fmt.Errorf("unrecognized syscall %#x", int32(call))
	}
	native, err := lookup(ArchNative)
	if err != nil {
		return 0, err
	}
	if f.byNumber == nil {
		f.byNumber = make(map[int32]int, len(names))
		for i, n := range native.numbers {
			f.byNumber[n] = i
		}
	}
	i, ok := f.byNumber[int32(call)]
	switch {
	case ok:
		return i, nil
	case len(f.sections) == 1 && f.sections[0].abi == native:
		return -1, nil
	}
	return 0, fmt.Errorf("unrecognized syscall %#x", int32(call))
}

// ExportBPF writes the filter as the kernel takes it: struct sock_filters in this machine's byte order.
func (f *ScmpFilter) ExportBPF(file *os.File) error {
	program, err := f.ExportBPFMem()
	if err != nil {
		return err
	}
	_, err = file.Write(program)
	return err
}

// ExportBPFMem returns what ExportBPF writes. A filter of more than 4096 instructions is E2BIG.
func (f *ScmpFilter) ExportBPFMem() ([]byte, error) {
	program, err := f.compile()
	if err != nil {
		return nil, err
	}
	b := bytes.NewBuffer(make([]byte, 0, 8*len(program)))
	for _, i := range program {
		b.Write(binary.NativeEndian.AppendUint16(b.AvailableBuffer(), i.code))
		b.Write([]byte{i.jt, i.jf})
		b.Write(binary.NativeEndian.AppendUint32(b.AvailableBuffer(), i.k))
	}
	return b.Bytes(), nil
}

func (f *ScmpFilter) compile() ([]instruction, error) {
	if !f.valid {
		return nil, errBadFilter
	}
	unmatched, err := f.unmatched.ret()
	if err != nil {
		return nil, err
	}
	badArch, err := f.badArch.ret()
	if err != nil {
		return nil, err
	}
	return compile(f.sections, unmatched, badArch)
}
