//go:build linux

package linux_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/testsuite"
)

func TestExecutor(t *testing.T) {
	needContainers(t)
	testExecutor(t, func(*platform.Spec) {})
}

// TestCommandLine is the same with other runtimes, those that are installed.
func TestCommandLine(t *testing.T) {
	needContainers(t)
	for _, name := range []string{"runc", "crun", "youki"} {
		t.Run(name, func(t *testing.T) {
			binary, err := exec.LookPath(name)
			if err != nil {
				t.Skip("not installed: ", err)
			}
			s := platformSpec(t, "probe", ociSpec("probe", "true"))
			s.Options.BinaryName = binary
			c, err := newExecutor(t, t.TempDir()).Create(t.Context(), s)
			if err != nil && strings.Contains(err.Error(), "hybrid mode not supported") {
				t.Skip("this host has both cgroup hierarchies: ", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Delete(t.Context()); err != nil {
				t.Fatal(err)
			}
			testExecutor(t, func(s *platform.Spec) { s.Options.BinaryName = binary })
		})
	}
}

// testExecutor runs the suite with containers that amend has changed.
func testExecutor(t *testing.T, amend func(*platform.Spec)) {
	testsuite.TestExecutor(t, func(t *testing.T) testsuite.ExecutorFixture {
		root := t.TempDir()
		e := newExecutor(t, root)
		return testsuite.ExecutorFixture{
			Executor: e,
			Spec: func(t *testing.T, id string, args ...string) platform.Spec {
				s := platformSpec(t, id, ociSpec(id, args...))
				amend(&s)
				return s
			},
			Restart: func(t *testing.T) platform.Executor {
				e.Close()
				return newExecutor(t, root)
			},
		}
	})
}
