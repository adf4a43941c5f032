package seccomp

import (
	"bufio"
	"fmt"
	"io"
	"iter"
	"math/bits"
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

// cArch is libseccomp's token: that of the kernel, but for x32, which has none.
func cArch(a *abi) uint32 {
	if a.arch == ArchX32 {
		return 0x4000003e
	}
	return a.audit
}

// filters makes the filter of a profile with both. It fails if one of them refuses a rule that the other takes.
func (o *oracle) filters(p profile) (ours, theirs []instruction) {
	o.t.Helper()
	ret, _ := p.action.ret()
	o.ask("new %d", ret)
	o.ask("optimize %d", p.optimize)
	if p.alone {
		o.ask("native 0")
	}
	for _, a := range p.archs {
		s, _ := lookup(a)
		o.ask("arch %d", cArch(s))
	}
	f, refused := p.filter(o.t)
	for i, r := range p.rules {
		ret, _ := r.action.ret()
		line := fmt.Sprintf("rule %d %s", ret, r.name)
		for _, c := range r.conds { // libseccomp numbers comparisons as we do
			line += fmt.Sprintf(" %d %d %d %d", c.Argument, c.Op, c.Operand1, c.Operand2)
		}
		if rc := o.ask("%s", line); (i == refused) != (rc != 0) {
			o.t.Fatalf("%s: we refuse rule %d, libseccomp says %d to %d of %+v", line, refused, rc, i, p)
		}
		if i == refused {
			return nil, nil
		}
	}
	ours, err := f.compile()
	if err != nil {
		o.t.Fatal(err)
	}
	for range o.ask("export") {
		var i instruction
		if _, err := fmt.Fscanf(o.out, "%d %d %d %d\n", &i.code, &i.jt, &i.jf, &i.k); err != nil {
			o.t.Fatal(err)
		}
		if p.big() { // libseccomp writes for the target, not for us
			i.code, i.k = bits.ReverseBytes16(i.code), bits.ReverseBytes32(i.k)
		}
		theirs = append(theirs, i)
	}
	return ours, theirs
}

// check runs both programs on calls of p: ours must do what the profile says, and libseccomp's the same, unless rules with
// different actions match: then ours must be as strict or stricter.
func (p profile) check(ours, theirs []instruction, calls iter.Seq[call]) error {
	for c := range calls {
		a, err := run(ours, c, p.big())
		if err != nil {
			return fmt.Errorf("our program: %w", err)
		}
		if want := p.naive(c); a != want {
			return fmt.Errorf("%x: %#x, the profile says %#x", c, a, want)
		}
		if theirs == nil {
			continue
		}
		b, err := run(theirs, c, p.big())
		if err != nil {
			return fmt.Errorf("libseccomp's program: %w", err)
		}
		if a == b {
			continue
		}
		if actions, _, _ := p.matching(c); !slices.Contains(actions, b) || leniency(a) > leniency(b) {
			return fmt.Errorf("%x: %#x, libseccomp says %#x", c, a, b)
		}
	}
	return nil
}

// broken says whether a program is of those that the C libseccomp 2.5 makes wrong: with conditions, a section at times lacks
// the load of the call's number, so that it compares the architecture with numbers.
func broken(program []instruction) bool {
	follow := func(pc int) int {
		for program[pc].code == opJump {
			pc += 1 + int(program[pc].k)
		}
		return pc
	}
	for pc := 1; program[pc].code == opEqual; { // the first instruction loads the architecture
		i := program[pc]
		if yes := program[follow(pc+1+int(i.jt))]; yes.code != opLoad || yes.k != offNumber {
			return true
		}
		pc = follow(pc + 1 + int(i.jf))
	}
	return false
}

// confusing says whether a profile compares an argument of a call twice with less, in one rule each: libseccomp 2.5 makes the
// branches of 64-bit ones wrong.
func (p profile) confusing() bool {
	seen := map[string]bool{}
	for _, r := range p.rules {
		for _, c := range r.conds {
			if c.Op == CompareEqual || c.Op == CompareNotEqual || c.Op == CompareMaskedEqual {
				continue
			}
			key := fmt.Sprint(r.name, c.Argument)
			if seen[key] {
				return true
			}
			seen[key] = true
		}
	}
	return false
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

func TestNumbersAsLibseccomp(t *testing.T) {
	o := newOracle(t)
	for i := range abis {
		s := &abis[i]
		if s.arch == ArchLOONGARCH64 { // newer than Debian's
			continue
		}
		for _, name := range o.known() {
			theirs := int32(o.ask("resolve %d %s", cArch(s), name))
			if theirs < -1 { // there by a multiplexer, if at all
				if _, sub := multiplexed(name); sub > 0 && s.hasMultiplexer(name) {
					continue
				}
				theirs = -1
			}
			if s.arch == ArchS390 && name == "memfd_secret" { // newer there than the headers
				continue
			}
			if n, _ := find(name); s.numbers[n] != theirs {
				t.Errorf("%s on %s: %d, libseccomp %d", name, s.name, s.numbers[n], theirs)
			}
		}
	}
}

func (s *abi) hasMultiplexer(name string) bool {
	through, _ := multiplexed(name)
	i, ok := find(through)
	return ok && s.numbers[i] >= 0
}

// TestRandomProfilesAsLibseccomp holds our programs against the profile and the C library's.
func TestRandomProfilesAsLibseccomp(t *testing.T) {
	o := newOracle(t)
	known := o.known()
	few := []string{"socket", "read", "clone", "personality", "semop", "accept4", "socketcall", "ipc", "chown32"}
	compared := 0
	const seeds = 300
	for seed := range uint64(seeds) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		among := known
		if seed%2 == 0 {
			among = few
		}
		p := randomProfile(rnd, among)
		ours, theirs := o.filters(p)
		if ours == nil {
			continue
		}
		if broken(theirs) || p.confusing() {
			theirs = nil
		} else {
			compared++
		}
		if err := p.check(ours, theirs, p.calls(rnd, 10)); err != nil {
			t.Errorf("seed %d: %+v: %v", seed, p, err)
		}
	}
	if compared < seeds/2 {
		t.Errorf("libseccomp made only %d usable programs of %d", compared, seeds)
	}
}

func TestDockerProfileAsLibseccomp(t *testing.T) {
	o := newOracle(t)
	known := o.known()
	for _, caps := range [][]string{nil, {"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_PTRACE", "CAP_BPF"}} {
		p := dockerProfile(t, caps...)
		for _, optimize := range []int{1, 2} {
			q := p
			q.optimize = optimize
			q.rules = slices.DeleteFunc(slices.Clone(p.rules), func(r testRule) bool { return !slices.Contains(known, r.name) })
			if len(p.rules)-len(q.rules) > 40 || len(q.rules) < 300 {
				t.Fatalf("libseccomp knows only %d of %d calls", len(q.rules), len(p.rules))
			}
			ours, theirs := o.filters(q)
			if ours == nil || broken(theirs) {
				t.Fatalf("no programs to compare: %d and %d instructions", len(ours), len(theirs))
			}
			t.Logf("%d rules: %d instructions, libseccomp %d", len(q.rules), len(ours), len(theirs))
			if err := q.check(ours, theirs, q.calls(rand.New(rand.NewPCG(1, 1)), 200)); err != nil {
				t.Error(err)
			}
		}
	}
}
