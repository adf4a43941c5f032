package seccomp

import (
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	docker "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// A testRule is a rule by its call's name.
type testRule struct {
	name   string
	action ScmpAction
	conds  []ScmpCondition
}

// A profile is what a filter is made of.
type profile struct {
	action   ScmpAction
	archs    []ScmpArch
	alone    bool // without the native architecture
	optimize int
	rules    []testRule
}

func (p profile) big() bool {
	return slices.ContainsFunc(p.archs, func(a ScmpArch) bool { s, _ := lookup(a); return s.big })
}

// filter returns the profile's filter up to the first rule that is refused, and the index of that or -1.
func (p profile) filter(t testing.TB) (*ScmpFilter, int) {
	t.Helper()
	f, err := NewFilter(p.action)
	if err != nil {
		t.Fatal(err)
	}
	if p.alone {
		if err := f.RemoveArch(ArchNative); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range p.archs {
		if err := f.AddArch(a); err != nil {
			t.Fatal(err)
		}
	}
	for i, r := range p.rules {
		n, err := GetSyscallFromName(r.name)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.AddRuleConditional(n, r.action, r.conds); err != nil {
			return f, i
		}
	}
	return f, -1
}

// values are arguments and operands with something of interest in one word or both.
var values = []uint64{0, 1, 2, 7, 38, 0xff, 0xffffffff, 1 << 32, 1<<32 | 7, 0x7e020000, 0xffffffff00000000, ^uint64(0)}

// arguments returns values on both sides of those that the rules compare with.
func (p profile) arguments() []uint64 {
	vs := append([]uint64{5, 1 << 31, 1<<63 + 2}, values...)
	for _, r := range p.rules {
		for _, c := range r.conds {
			for _, v := range []uint64{c.Operand1, c.Operand2} {
				vs = append(vs, v, v-1, v+1, v^1<<32, v&0xffffffff, v|1<<40)
			}
		}
	}
	slices.Sort(vs)
	return slices.Compact(vs)
}

// calls yields calls of all numbers on all architectures, and many of each with different arguments of those that rules with
// conditions name.
func (p profile) calls(rnd *rand.Rand, many int) iter.Seq[call] {
	args := p.arguments()
	audits := []uint32{0, 0xffffffff}
	often := map[uint32]bool{0xffffffff: true, 0x7fffffff: true, x32Bit - 1: true, 0x80000000: true}
	for i := range abis {
		audits = append(audits, abis[i].audit)
		for _, r := range p.rules {
			if len(r.conds) > 0 {
				n, _ := find(r.name)
				often[uint32(abis[i].numbers[n])] = true
			}
		}
		for _, m := range []string{"socketcall", "ipc"} {
			n, _ := find(m)
			often[uint32(abis[i].numbers[n])] = true
		}
	}
	slices.Sort(audits)
	return func(yield func(call) bool) {
		for _, audit := range slices.Compact(audits) {
			for n := range often {
				for range many {
					c := call{number: n, audit: audit}
					for i := range c.args {
						c.args[i] = args[rnd.IntN(len(args))]
					}
					if !yield(c) {
						return
					}
				}
			}
			bases := []uint32{0, 4000, 5000, 6000, x32Bit, 0xf0000}
			if p.abiOf(call{audit: audit}) == nil && p.abiOf(call{number: x32Bit, audit: audit}) == nil {
				bases = nil // all numbers are alike there
			}
			for _, base := range bases {
				for n := range uint32(600) {
					if !yield(call{number: base + n, audit: audit}) {
						return
					}
				}
			}
		}
	}
}

func randomProfile(rnd *rand.Rand, among []string) profile {
	actions := []ScmpAction{ActErrno.SetReturnCode(1), ActAllow, ActErrno.SetReturnCode(2), ActKillProcess, ActLog, ActTrap, ActTrace.SetReturnCode(3), ActNotify}
	little := []ScmpArch{ArchX86, ArchX32, ArchARM64, ArchARM, ArchRISCV64, ArchPPC64LE, ArchMIPSEL, ArchMIPSEL64, ArchMIPSEL64N32}
	big := []ScmpArch{ArchS390X, ArchS390, ArchPPC, ArchPPC64, ArchMIPS, ArchMIPS64, ArchMIPS64N32}
	p := profile{action: actions[rnd.IntN(2)], archs: little, optimize: 1} // 2 makes libseccomp 2.5 loop forever where an architecture has no rule
	if p.alone = rnd.IntN(4) == 0; p.alone && rnd.IntN(2) == 0 {
		p.archs = big
	}
	p.archs = slices.Clone(p.archs)
	rnd.Shuffle(len(p.archs), func(i, j int) { p.archs[i], p.archs[j] = p.archs[j], p.archs[i] })
	p.archs = p.archs[:1+rnd.IntN(3)]
	if rnd.IntN(2) == 0 { // most profiles have only one action besides the default
		actions = actions[:2]
	}
	actions = slices.DeleteFunc(actions, func(a ScmpAction) bool { return a == p.action })
	for range 1 + rnd.IntN(5) {
		r := testRule{name: among[rnd.IntN(len(among))], action: actions[rnd.IntN(len(actions))]}
		if rnd.IntN(3) > 0 {
			for _, arg := range rnd.Perm(6)[:1+rnd.IntN(3)] {
				r.conds = append(r.conds, ScmpCondition{uint(arg), CompareNotEqual + ScmpCompareOp(rnd.IntN(7)), values[rnd.IntN(len(values))], values[rnd.IntN(len(values))]})
			}
		}
		p.rules = append(p.rules, r)
	}
	return p
}

// dockerProfile returns the rules that runc makes of Docker's default profile for a container with these capabilities.
func dockerProfile(t testing.TB, caps ...string) profile {
	t.Helper()
	d, err := docker.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
	if err != nil {
		t.Fatal(err)
	}
	p := profile{action: ActErrno.SetReturnCode(int16(*d.DefaultErrnoRet)), optimize: 2}
	for _, a := range d.Architectures {
		arch, err := GetArchFromString(strings.TrimPrefix(string(a), "SCMP_ARCH_"))
		if err != nil {
			t.Fatal(err)
		}
		p.archs = append(p.archs, arch)
	}
	ops := map[specs.LinuxSeccompOperator]ScmpCompareOp{
		specs.OpEqualTo: CompareEqual, specs.OpNotEqual: CompareNotEqual, specs.OpMaskedEqual: CompareMaskedEqual,
		specs.OpLessThan: CompareLess, specs.OpLessEqual: CompareLessOrEqual, specs.OpGreaterThan: CompareGreater, specs.OpGreaterEqual: CompareGreaterEqual,
	}
	for _, call := range d.Syscalls {
		action := ActAllow
		if call.Action == specs.ActErrno {
			action = ActErrno.SetReturnCode(int16(*call.ErrnoRet))
		} else if call.Action != specs.ActAllow {
			t.Fatalf("action %s", call.Action)
		}
		var conds []ScmpCondition
		for _, a := range call.Args {
			c, err := MakeCondition(a.Index, ops[a.Op], a.Value, a.ValueTwo)
			if err != nil {
				t.Fatal(err)
			}
			conds = append(conds, c)
		}
		for _, name := range call.Names {
			if _, err := GetSyscallFromName(name); err == nil && action != p.action {
				p.rules = append(p.rules, testRule{name, action, conds})
			}
		}
	}
	return p
}
