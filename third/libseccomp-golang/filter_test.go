package seccomp

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"unsafe"
)

// FuzzFilter holds programs against the plain reading of the profile they are made of.
func FuzzFilter(f *testing.F) {
	f.Add(uint64(1), uint64(2), uint8(3))
	f.Add(uint64(7), uint64(7), uint8(1))
	f.Fuzz(func(t *testing.T, a, b uint64, few uint8) {
		rnd := rand.New(rand.NewPCG(a, b))
		among := []string{"socket", "read", "clone", "semop", "accept4", "socketcall", "ipc", "chown32"}
		if few%2 == 0 {
			among = names[:]
		}
		p := randomProfile(rnd, among)
		for range few % 8 { // larger ones
			p.rules = append(p.rules, randomProfile(rnd, among).rules...)
		}
		p.rules = slices.DeleteFunc(p.rules, func(r testRule) bool { return r.action == p.action })
		for {
			filter, refused := p.filter(t)
			if refused >= 0 { // the same conditions with another action
				p.rules = slices.Delete(p.rules, refused, refused+1)
				continue
			}
			program, err := filter.compile()
			if errors.Is(err, syscall.E2BIG) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := p.check(program, nil, p.calls(rnd, 3)); err != nil {
				t.Fatalf("%+v: %v", p, err)
			}
			return
		}
	})
}

func TestLongJumps(t *testing.T) {
	p := profile{action: ActAllow, archs: []ScmpArch{ArchX86, ArchX32}}
	for i, name := range names {
		r := testRule{name: name, action: ActErrno.SetReturnCode(int16(i + 1))} // no two neighbours alike
		if i%5 == 0 {
			r.conds = []ScmpCondition{{Argument: 1, Op: CompareGreater, Operand1: 1<<32 | 7}}
		}
		p.rules = append(p.rules, r)
	}
	f, refused := p.filter(t)
	if refused >= 0 {
		t.Fatalf("refused %+v", p.rules[refused])
	}
	program, err := f.compile()
	if err != nil {
		t.Fatal(err)
	}
	if len(program) < 2000 {
		t.Errorf("only %d instructions", len(program))
	}
	if err := p.check(program, nil, p.calls(rand.New(rand.NewPCG(1, 1)), 3)); err != nil {
		t.Error(err)
	}
}

func TestTooBig(t *testing.T) {
	f, err := NewFilter(ActAllow)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5000 {
		if err := f.AddRule(ScmpSyscall(1000+i), ActErrno.SetReturnCode(int16(i))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.ExportBPFMem(); !errors.Is(err, syscall.E2BIG) {
		t.Errorf("a filter of more than 4096 instructions: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	f, err := NewFilter(ActErrno.SetReturnCode(1))
	if err != nil {
		t.Fatal(err)
	}
	one := []ScmpCondition{{Argument: 1, Op: CompareEqual, Operand1: 1}}
	if err := f.AddRuleConditional(0, ActAllow, one); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"the default action":         f.AddRule(0, ActErrno.SetReturnCode(1)),
		"no action":                  f.AddRule(0, ActInvalid),
		"an action that has no code": f.AddRule(0, ActAllow|1<<16),
		"two tests of one argument":  f.AddRuleConditional(0, ActAllow, append(one, one...)),
		"argument 6":                 f.AddRuleConditional(0, ActAllow, []ScmpCondition{{Argument: 6, Op: CompareEqual}}),
		"no comparison":              f.AddRuleConditional(0, ActAllow, []ScmpCondition{{}}),
		"a contradiction":            f.AddRuleConditional(0, ActLog, one),
		"call -1":                    f.AddRule(-1, ActAllow),
		"a pseudo call of no name":   f.AddRule(pseudo(len(names)), ActAllow),
		"another byte order":         f.AddArch(ArchS390X),
		"no architecture":            f.AddArch(ArchInvalid),
		"PA-RISC":                    f.AddArch(ArchPARISC),
		"a filter of nobody":         new(ScmpFilter).AddRule(0, ActAllow),
		"level 3":                    f.SetOptimize(3),
	} {
		if err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if err := f.AddArch(ArchX86); err != nil {
		t.Fatal(err)
	}
	if err := f.AddRule(100000, ActAllow); err == nil {
		t.Error("a number without a name is taken for several architectures")
	}
	if _, err := GetSyscallFromName("no_such_call"); !errors.Is(err, ErrSyscallDoesNotExist) {
		t.Errorf("no_such_call: %v", err)
	}
	f.Release()
	if _, err := f.ExportBPFMem(); err == nil {
		t.Error("a released filter is exported")
	}
}

// TestKernel loads a filter on a thread of its own and makes calls there.
func TestKernel(t *testing.T) {
	const op = 157 // prctl on amd64
	if runtime.GOARCH != "amd64" {
		t.Skip("calls by amd64's numbers")
	}
	if level, _ := GetAPI(); level < 2 {
		t.Skipf("needs seccomp(2): API level %d", level)
	}
	f, err := NewFilter(ActAllow)
	if err != nil {
		t.Fatal(err)
	}
	n, err := GetSyscallFromName("getpriority")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.AddRuleConditional(n, ActErrno.SetReturnCode(99), []ScmpCondition{{Argument: 0, Op: CompareGreaterEqual, Operand1: 1 << 33}}); err != nil {
		t.Fatal(err)
	}
	if err := f.AddRule(op, ActErrno.SetReturnCode(98)); err != nil {
		t.Fatal(err)
	}
	program, err := f.ExportBPFMem()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		done <- func() error {
			if _, _, e := syscall.RawSyscall6(op, 38, 1, 0, 0, 0, 0); e != 0 { // PR_SET_NO_NEW_PRIVS
				return fmt.Errorf("cannot set no_new_privs: %w", e)
			}
			fprog := struct {
				n       uint16
				program *byte
			}{uint16(len(program) / 8), &program[0]}
			if _, _, e := syscall.RawSyscall(sysSeccomp(), setModeFilter, 0, uintptr(unsafe.Pointer(&fprog))); e != 0 {
				return fmt.Errorf("cannot load the filter: %w", e)
			}
			for _, c := range []struct {
				number, arg uintptr
				want        syscall.Errno
			}{{uintptr(n), 0, 0}, {uintptr(n), 1 << 33, 99}, {uintptr(n), 1<<33 - 1, syscall.EINVAL}, {op, 0, 98}} {
				if _, _, e := syscall.RawSyscall(c.number, c.arg, 0, 0); e != c.want {
					return fmt.Errorf("call %d with %#x: errno %d, want %d", c.number, c.arg, e, c.want)
				}
			}
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFlagsOfThisKernel(t *testing.T) {
	f, err := NewFilter(ActAllow)
	if err != nil {
		t.Fatal(err)
	}
	level, err := GetAPI()
	if err != nil || level == 0 {
		t.Fatal(level, err)
	}
	for want, set := range map[uint]func(bool) error{3: f.SetLogBit, 4: f.SetSSB, 7: f.SetWaitKill} {
		var version *VersionError
		if err := set(true); errors.As(err, &version) != (level < want) {
			t.Errorf("the flag of level %d at level %d: %v", want, level, err)
		}
	}
}

func BenchmarkDockerProfile(b *testing.B) {
	p := dockerProfile(b)
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	b.ReportAllocs()
	for b.Loop() {
		f, refused := p.filter(b)
		if refused >= 0 {
			b.Fatal(p.rules[refused])
		}
		if err := f.ExportBPF(null); err != nil {
			b.Fatal(err)
		}
	}
}
