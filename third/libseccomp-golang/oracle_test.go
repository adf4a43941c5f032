package seccomp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// An oracle is the C libseccomp at the other end of a pipe; testdata/oracle.c says what it understands.
type oracle struct {
	t   testing.TB
	in  io.WriteCloser
	out *bufio.Reader
}

func newOracle(t testing.TB) *oracle {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("needs gcc, to build a program with the C libseccomp")
	}
	bin := filepath.Join(t.TempDir(), "oracle")
	if out, err := exec.Command(gcc, "-O2", "-o", bin, "testdata/oracle.c", "-lseccomp").CombinedOutput(); err != nil {
		t.Skipf("needs libseccomp-dev: %s", out)
	}
	cmd := exec.Command(bin)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return &oracle{t: t, in: in, out: bufio.NewReader(out)}
}

// ask sends a command and returns the number it answers.
func (o *oracle) ask(format string, args ...any) int {
	o.t.Helper()
	fmt.Fprintf(o.in, format+"\n", args...)
	return o.answer()
}

func (o *oracle) answer() int {
	o.t.Helper()
	var n int
	if _, err := fmt.Fscanf(o.out, "%d\n", &n); err != nil {
		o.t.Fatal(err)
	}
	return n
}

// A testRule is a rule by its call's name.
type testRule struct {
	name   string
	action ScmpAction
	conds  []ScmpCondition
}

// A profile is what both libraries are asked to make a filter of.
type profile struct {
	action ScmpAction
	archs  []ScmpArch
	alone  bool // without the native architecture
	rules  []testRule
}

// cArch is libseccomp's token: that of the kernel, but for x32, which has none.
func cArch(a *abi) uint32 {
	if a.arch == ArchX32 {
		return 0x4000003e
	}
	return a.audit
}

// cOp is libseccomp's number of a comparison: the order of enum scmp_compare.
func cOp(op ScmpCompareOp) int { return int(op) }

// filters makes the filter of a profile with both, and fails if one of them refuses a rule that the other takes.
func (o *oracle) filters(p profile) (ours, theirs []instruction) {
	t := o.t
	t.Helper()
	f, err := NewFilter(p.action)
	if err != nil {
		t.Fatal(err)
	}
	ret, _ := p.action.ret()
	o.ask("new %d", ret)
	for _, a := range p.archs {
		s, err := lookup(a)
		if err != nil {
			t.Fatal(err)
		}
		if p.alone {
			if err := f.RemoveArch(ArchNative); err != nil {
				t.Fatal(err)
			}
			o.ask("native 0")
			p.alone = false
		}
		if err := f.AddArch(a); err != nil {
			t.Fatal(err)
		}
		o.ask("arch %d", cArch(s))
	}
	for _, r := range p.rules {
		n, err := GetSyscallFromName(r.name)
		if err == nil {
			err = f.AddRuleConditional(n, r.action, r.conds)
		}
		ret, _ := r.action.ret()
		line := fmt.Sprintf("rule %d %s", ret, r.name)
		for _, c := range r.conds {
			line += fmt.Sprintf(" %d %d %d %d", c.Argument, cOp(c.Op), c.Operand1, c.Operand2)
		}
		rc := o.ask("%s", line)
		if (err == nil) != (rc == 0) {
			t.Logf("%s: we say %v, libseccomp %d %+v", line, err, rc, p)
			return nil, nil
		}
	}
	if ours, err = f.compile(); err != nil {
		t.Fatal(err)
	}
	n := o.ask("export")
	for range n {
		var i instruction
		if _, err := fmt.Fscanf(o.out, "%d %d %d %d\n", &i.code, &i.jt, &i.jf, &i.k); err != nil {
			t.Fatal(err)
		}
		theirs = append(theirs, i)
	}
	return ours, theirs
}

// interesting returns argument values around those that the rules compare with.
func interesting(rules []testRule) []uint64 {
	vs := []uint64{0, 1, 2, 5, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 + 1, 1<<63 + 2, ^uint64(0)}
	for _, r := range rules {
		for _, c := range r.conds {
			for _, v := range []uint64{c.Operand1, c.Operand2} {
				vs = append(vs, v, v-1, v+1, v^1<<32, v&0xffffffff, v|1<<40)
			}
		}
	}
	slices.Sort(vs)
	return slices.Compact(vs)
}

var errDiffer = errors.New("the filters differ")

// compare runs both programs on calls of all numbers and architectures, and with many arguments on those that rules name.
func compare(p profile, ours, theirs []instruction, rnd *rand.Rand, many int) error {
	values := interesting(p.rules)
	big := false
	for _, a := range p.archs {
		s, _ := lookup(a)
		big = s.big
	}
	var audits []uint32
	for i := range abis {
		audits = append(audits, abis[i].audit)
	}
	audits = append(audits, 0, 0xffffffff)
	slices.Sort(audits)
	check := func(c call) error {
		a, err := run(ours, c, big)
		if err != nil {
			return err
		}
		b, err := run(theirs, c, big)
		if err != nil {
			return err
		}
		if a != b {
			return fmt.Errorf("%w: %x: %#x, libseccomp %#x", errDiffer, c, a, b)
		}
		return nil
	}
	numbers := map[uint32]bool{0xffffffff: true, 0x7fffffff: true, x32Bit - 1: true, 0x80000000: true, 0xf0000: true}
	for i := range abis {
		for _, r := range p.rules {
			if n, ok := find(r.name); ok && len(r.conds) > 0 {
				numbers[uint32(abis[i].numbers[n])] = true
			}
		}
		for _, m := range []string{"socketcall", "ipc"} {
			n, _ := find(m)
			numbers[uint32(abis[i].numbers[n])] = true
		}
	}
	for _, audit := range slices.Compact(audits) {
		for n := range numbers {
			for range many {
				c := call{number: n, audit: audit}
				for i := range c.args {
					c.args[i] = values[rnd.IntN(len(values))]
				}
				if err := check(c); err != nil {
					return err
				}
			}
		}
		for _, base := range []uint32{0, 4000, 5000, 6000, x32Bit, 0xf0000} {
			for n := range uint32(600) {
				if err := check(call{number: base + n, audit: audit}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// broken says whether the C libseccomp forgot in one of the sections to load the call's number, as 2.5 does at times when
// the section's first system call has a rule with conditions: it compares the architecture with the number then.
func broken(program []instruction) bool {
	sections, loads := 0, 0
	audits := map[uint32]bool{}
	for i := range abis {
		audits[abis[i].audit] = true
	}
	for _, i := range program {
		if i.code == opEqual && audits[i.k] {
			sections++
		}
		if i.code == opLoad && i.k == offNumber {
			loads++
		}
	}
	return loads < sections
}

// known are the names that the C libseccomp has too.
func (o *oracle) known() []string {
	var known []string
	for _, n := range names {
		if o.ask("resolve %d %s", auditAMD64, n) != -1 {
			known = append(known, n)
		}
	}
	return known
}

func randomRule(rnd *rand.Rand, known []string, actions []ScmpAction, values []uint64) testRule {
	r := testRule{name: known[rnd.IntN(len(known))], action: actions[rnd.IntN(len(actions))]}
	if rnd.IntN(3) == 0 {
		return r
	}
	for _, arg := range rnd.Perm(6)[:1+rnd.IntN(3)] {
		r.conds = append(r.conds, ScmpCondition{uint(arg), CompareNotEqual + ScmpCompareOp(rnd.IntN(7)), values[rnd.IntN(len(values))], values[rnd.IntN(len(values))]})
	}
	return r
}

func TestRandomProfilesAsLibseccomp(t *testing.T) {
	o := newOracle(t)
	known := o.known()
	values := []uint64{0, 1, 2, 7, 38, 0xff, 0xffffffff, 1 << 32, 1<<32 | 7, 0x7e020000, 0xffffffff00000000, ^uint64(0)}
	few := []string{"socket", "read", "clone", "personality", "semop", "accept4", "socketcall", "ipc", "chown32"}
	bad, skipped := 0, 0
	for seed := range uint64(600) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		p := profile{action: ActErrno.SetReturnCode(1), archs: []ScmpArch{ArchX86, ArchX32, ArchARM64, ArchARM}[:rnd.IntN(5)]}
		among := known
		if seed%2 == 0 {
			among = few
		}
		for range 1 + rnd.IntN(5) {
			p.rules = append(p.rules, randomRule(rnd, among, []ScmpAction{ActAllow, ActErrno.SetReturnCode(2), ActKillProcess, ActLog}, values))
		}
		ours, theirs := o.filters(p)
		if ours == nil || broken(theirs) {
			skipped++
			continue
		}
		if err := compare(p, ours, theirs, rnd, 20); err != nil {
			bad++
			if bad < 12 {
				t.Errorf("seed %d: %+v: %v", seed, p, err)
			}
		}
	}
	t.Log(bad, skipped)
}
