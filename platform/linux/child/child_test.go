//go:build linux

package child

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func start(t *testing.T, build func(p *Program)) (*Process, unix.WaitStatus, error) {
	t.Helper()
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	build(p)
	c, err := p.Start(Options{})
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
			_, status, err := start(t, test.build)
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
	c, err := p.Start(Options{})
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
	kept, err := unix.FcntlInt(held.Fd(), unix.F_DUPFD_CLOEXEC, 200)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(kept)
	p.Keep(kept)
	null, zero := p.Words(1), p.Words(1)
	p.Call("open", unix.SYS_OPENAT, unix.AT_FDCWD, "/dev/null", unix.O_RDWR).Into(null)
	p.Give("give", null)
	p.Wait()
	p.Ready()
	p.Call("exit", unix.SYS_EXIT_GROUP, zero)
	c, err := p.Start(Options{})
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
	want := map[string]bool{"0": true, "1": true, "2": true, "3": true, fmt.Sprint(p.Socket()): true, "200": true}
	if p.Socket() == 3 {
		delete(want, "3")
		want["4"] = true
	}
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
	for b.Loop() {
		p, err := New()
		if err != nil {
			b.Fatal(err)
		}
		p.Ready()
		p.Call("exit", unix.SYS_EXIT_GROUP, 0)
		c, err := p.Start(Options{})
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

// TestLimits compares with what a program gets that Go executes.
func TestLimits(t *testing.T) {
	var raised, after unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &raised); err != nil {
		t.Fatal(err)
	}
	limits, err := Limits()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", "-c", "ulimit -Sn; ulimit -Hn").Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%d\n%d\n", limits[0].Limit.Cur, limits[0].Limit.Max); string(out) != want {
		t.Errorf("a program of ours has limits %q; want %q", out, want)
	}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &after); err != nil || after != raised {
		t.Errorf("our own limit was %v and is %v, %v", raised, after, err)
	}
}
