//go:build linux

package linux_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/linux"
)

// prober prints what it can see of all processes: the environment that their memory holds, and what they have open.
const prober = `while :; do cat /proc/[0-9]*/environ; ls -l /proc/[0-9]*/fd /proc/[0-9]*/exe; done 2>/dev/null`

// seen takes what the prober prints.
type seen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *seen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *seen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// TestProber has somebody who may trace look at processes that are executed beside it. They must never have anything of this
// process's memory.
func TestProber(t *testing.T) {
	needContainers(t)
	const ptrace = "CAP_SYS_PTRACE"
	if caps := strings.Join(ownCapabilities(t), " "); !strings.Contains(caps, ptrace) {
		t.Skip("we may not trace ourselves")
	}
	with := ociSpec("").Process.Capabilities
	for _, set := range []*[]string{&with.Bounding, &with.Effective, &with.Permitted} {
		*set = append(*set, ptrace)
	}
	for _, test := range []struct {
		name        string
		traced      bool
		init, probe *specs.LinuxCapabilities // of the container; of the prober executed in it, or nil for one in another that joins it
	}{
		{"without the capability", false, nil, ociSpec("").Process.Capabilities},
		{"in the container's own hands", true, with, with},
		{"given to a process alone", true, nil, with},
		{"in another container of the pod", true, nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			e := newExecutor(t, root)
			s := ociSpec("probed", "sleep", "1000")
			if test.init != nil {
				s.Process.Capabilities = test.init
			}
			c := started(t, e, platformSpec(t, "probed", s))
			var out seen
			var beside platform.Container
			if test.probe != nil {
				execIn(t, c, "prober", test.probe, platform.IO{Stdout: &out}, "sh", "-c", prober)
			} else {
				other := ociSpec("prober", "sh", "-c", prober)
				other.Process.Capabilities = with
				other.Linux.Namespaces[0].Path = nsOf(c, "pid")
				p := platformSpec(t, "prober", other)
				p.IO = platform.IO{Stdout: &out}
				beside = started(t, e, p)
			}
			if linux.Traced(c) != test.traced {
				t.Errorf("traced: %v, want %v", !test.traced, test.traced)
			}
			for i := range 10 {
				x := execIn(t, c, string(rune('a'+i)), s.Process.Capabilities, platform.IO{}, "true")
				if _, err := x.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for !strings.Contains(out.String(), "PATH=/bin") { // it sees itself
				x := execIn(t, c, "more", s.Process.Capabilities, platform.IO{}, "true")
				if _, err := x.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := x.Delete(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if strings.Contains(out.String(), secret) || strings.Contains(out.String(), root) {
				t.Error("the prober saw this process's memory, or its files")
			}
			if beside != nil {
				ended(t, beside)
			}
			if test.traced {
				e.Close()
				again, err := newExecutor(t, root).Adopt(t.Context(), "probed")
				if err != nil {
					t.Fatal(err)
				}
				if test.probe != nil && !linux.Traced(again) {
					t.Error("the next executor does not know of the prober")
				}
				c = again
			}
			ended(t, c)
		})
	}
}

func started(t *testing.T, e *linux.Executor, s platform.Spec) platform.Container {
	t.Helper()
	c, err := e.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func ended(t *testing.T, c platform.Container) {
	t.Helper()
	if err := c.Init().Signal(t.Context(), 9, false); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Init().Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func execIn(t *testing.T, c platform.Container, id string, caps *specs.LinuxCapabilities, io platform.IO, args ...string) platform.Process {
	t.Helper()
	p, err := json.Marshal(specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, Capabilities: caps})
	if err != nil {
		t.Fatal(err)
	}
	x, err := c.Exec(t.Context(), platform.ProcessSpec{ID: id, OCI: p, IO: io})
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return x
}
