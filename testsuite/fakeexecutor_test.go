package testsuite_test

import (
	"encoding/json"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/testsuite"
)

func TestFakeExecutor(t *testing.T) {
	testsuite.TestExecutor(t, func(t *testing.T) testsuite.ExecutorFixture {
		e := testsuite.NewFakeExecutor()
		return testsuite.ExecutorFixture{
			Executor: e,
			Spec: func(t *testing.T, id string, args ...string) platform.Spec {
				data, err := json.Marshal(specs.Spec{Process: &specs.Process{Args: args}})
				if err != nil {
					t.Fatal(err)
				}
				return platform.Spec{ID: id, Bundle: t.TempDir(), OCI: data}
			},
			Restart: func(t *testing.T) platform.Executor { return e.Crash() },
		}
	})
}
