//go:build linux

package child

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func newStarter(t testing.TB) *Starter {
	t.Helper()
	s, err := NewStarter("of a test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func start(t *testing.T, s *Starter, build func(p *Program)) (*Process, unix.WaitStatus, error) {
	t.Helper()
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	build(p)
	c, err := s.Start(p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Continue()
	if err == nil {
		err = c.Ready()
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(c.Pid, &status, 0, nil); err != nil {
		t.Fatal(err)
	}
	return c, status, err
}

func TestProgram(t *testing.T) {
	starter := newStarter(t)
	for _, test := range []struct {
		name, want string
		status     int
		build      func(p *Program)
	}{
		{"to the end", "", 7, func(p *Program) {
			p.Ready()
			p.Call("exit", unix.SYS_EXIT_GROUP, 7)
		}},
		{"exec", "", 5, func(p *Program) {
			p.Wait()
			p.Ready()
			p.Call("exec", unix.SYS_EXECVE, "/bin/sh", p.Strings([]string{"sh", "-c", "exit $CODE"}), p.Strings([]string{"CODE=5"}))
		}},
		{"failure", "cannot open /nowhere: no such file or directory", 255, func(p *Program) {
			p.Call("open /nowhere", unix.SYS_OPENAT, unix.AT_FDCWD, "/nowhere", unix.O_RDONLY)
		}},
		{"failure of our own", "this is so", 255, func(p *Program) { p.Fail("this is so") }},
		{"ignored and handled failures", "", 3, func(p *Program) {
			p.Call("close", unix.SYS_CLOSE, 1000).Ignore(unix.EIO, unix.EBADF)
			l := p.Label()
			p.Call("close", unix.SYS_CLOSE, 1000).On(AnyError, l)
			p.Fail("not reached")
			p.Place(l)
			p.Ready()
			p.Call("exit", unix.SYS_EXIT_GROUP, 3)
		}},
		{"memory", "", 9, func(p *Program) {
			w := p.Words(3)
			p.Set(w, 9)
			p.Set(w+1, w)
			same := p.Label()
			p.Equal("compare", w, w+1).Then(same)
			p.Fail("not reached")
			p.Place(same)
			differs := p.Label()
			p.Check("compare", w, 0xff, 8).On(unix.EINVAL, differs)
			p.Fail("not reached")
			p.Place(differs)
			p.Ready()
			p.Call("exit", unix.SYS_EXIT_GROUP, w+1)
		}},
		{"death", ErrDied.Error(), 8, func(p *Program) { p.Call("exit", unix.SYS_EXIT_GROUP, 8) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, status, err := start(t, starter, test.build)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if status.ExitStatus() != test.status || !strings.Contains(got, test.want) || (got == "") != (test.want == "") {
				t.Errorf("exit %d, error %q; want %d, %q", status.ExitStatus(), got, test.status, test.want)
			}
		})
	}
}

// TestParentGone has the child wait for a parent that hangs up.
func TestParentGone(t *testing.T) {
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	p.Wait()
	p.Call("exit", unix.SYS_EXIT_GROUP, 0)
	c, err := newStarter(t).Start(p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	var status unix.WaitStatus
	if _, err := unix.Wait4(c.Pid, &status, 0, nil); err != nil || status.ExitStatus() != 255 {
		t.Errorf("exit %d, %v; want 255", status.ExitStatus(), err)
	}
}

// TestDescriptors looks at what a child has open before its first step.
func TestDescriptors(t *testing.T) {
	held, err := os.Open(t.TempDir()) // by this process, and not for the child
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if got := p.Keep(held); got != socket+1 {
		t.Fatalf("a kept file is descriptor %d", got)
	}
	null, zero := p.Words(1), p.Words(1)
	p.Call("open", unix.SYS_OPENAT, unix.AT_FDCWD, "/dev/null", unix.O_RDWR).Into(null)
	p.Give("give", null)
	p.Wait()
	p.Ready()
	p.Call("exit", unix.SYS_EXIT_GROUP, zero)
	c, err := newStarter(t).Start(p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if word, err := c.hear(); err != nil || word != given || len(c.Given) != 1 {
		t.Fatalf("heard %#x and %d descriptors, %v", word, len(c.Given), err)
	}
	defer c.Given[0].Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(c.Given[0].Fd()), &st); err != nil || st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("given was another file: %v", err)
	}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.Pid))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, fd := range open {
		names[fd.Name()] = true
	}
	want := map[string]bool{"0": true, "1": true, "2": true, "3": true, "4": true, "5": true} // 3 is what it opened
	if !maps.Equal(names, want) {
		t.Errorf("the child has %v open; want %v", names, want)
	}
	if err := c.Continue(); err != nil {
		t.Fatal(err)
	}
	if err := c.Ready(); err != nil {
		t.Error(err)
	}
	if _, err := unix.Wait4(c.Pid, nil, 0, nil); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkFork(b *testing.B) {
	s := newStarter(b)
	for b.Loop() {
		p, err := New()
		if err != nil {
			b.Fatal(err)
		}
		p.Ready()
		p.Call("exit", unix.SYS_EXIT_GROUP, 0)
		c, err := s.Start(p, Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Ready(); err != nil {
			b.Fatal(err)
		}
		p.Close()
		_, _ = unix.Wait4(c.Pid, nil, 0, nil)
	}
}

// TestInherited compares with what a program gets that Go executes: Go raises its own limit of open files.
func TestInherited(t *testing.T) {
	signal.Ignore(unix.SIGUSR1) // which Go's would get ignored, and children of ours not
	defer signal.Reset(unix.SIGUSR1)
	want, err := exec.Command("cat", "/proc/self/limits").Output()
	if err != nil {
		t.Fatal(err)
	}
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.Wait()
	c, err := newStarter(t).Start(p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = unix.Kill(c.Pid, unix.SIGKILL)
		_, _ = unix.Wait4(c.Pid, nil, 0, nil)
	}()
	if got, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", c.Pid)); err != nil || string(got) != string(want) {
		t.Errorf("a child has limits, %v\n%s\nwant\n%s", err, got, want)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000", "SigCgt:\t0000000000000000", fmt.Sprintf("PPid:\t%d\n", os.Getpid())} {
		if !strings.Contains(string(status), line) {
			t.Errorf("no %q in\n%s", line, status)
		}
	}
	if maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", c.Pid)); os.Getuid() != 0 && err == nil { // root may look into what is undumpable
		maps.Close()
		t.Error("everybody may look into a child")
	}
}

// TestStarterKilled wants the next start to do as if nothing had been.
func TestStarterKilled(t *testing.T) {
	s := newStarter(t)
	exit := func(p *Program) {
		p.Wait()
		p.Ready()
		p.Call("exit", unix.SYS_EXIT_GROUP, 7)
	}
	for range 2 {
		if _, status, err := start(t, s, exit); err != nil || status.ExitStatus() != 7 {
			t.Fatalf("exit %d, %v", status.ExitStatus(), err)
		}
		if err := s.process.Kill(); err != nil {
			t.Fatal(err)
		}
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_PID, s.process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLarge has a program of more than a socket takes at once, with as much text as execve(2) takes.
func TestLarge(t *testing.T) {
	_, status, err := start(t, newStarter(t), func(p *Program) {
		w := p.Words(1 << 13)
		for range 1 << 13 {
			p.Set(w+1<<13-1, 5)
		}
		env := []string{"X=" + strings.Repeat("x", 100<<10), "Y=" + strings.Repeat("y", 100<<10)}
		p.Wait()
		p.Ready()
		p.Call("exec", unix.SYS_EXECVE, "/bin/sh", p.Strings([]string{"sh", "-c", "exit ${#Y}00"}), p.Strings(env))
	})
	if err != nil || status.ExitStatus() != 102400*100&0xff {
		t.Errorf("exit %d, %v", status.ExitStatus(), err)
	}
}
