//go:build linux

package linux_test

import (
	"testing"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/testsuite"
)

func TestExecutor(t *testing.T) {
	needContainers(t)
	testsuite.TestExecutor(t, func(t *testing.T) testsuite.ExecutorFixture {
		root := t.TempDir()
		e := newExecutor(t, root)
		return testsuite.ExecutorFixture{
			Executor: e,
			Spec: func(t *testing.T, id string, args ...string) platform.Spec {
				return platformSpec(t, id, ociSpec(id, args...))
			},
			Restart: func(t *testing.T) platform.Executor {
				e.Close()
				return newExecutor(t, root)
			},
		}
	})
}
