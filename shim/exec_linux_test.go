package shim_test

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/shim"
)

// What never ran has no exit to tell of: dockerd would take its number for that of the program (255 in the place of 126).
func TestExecThatDidNotStart(t *testing.T) {
	w := newWorld(t, shim.Config{})
	w.run("c", shim.Streams{}, "sleep", "1000")
	for id, program := range map[string]string{"fails": "/no/such/program", "unstarted": "true"} {
		process := asJSON(t, specs.Process{Args: []string{program}, Cwd: "/", Env: []string{"PATH=/bin"}})
		if err := w.m.Exec(t.Context(), "default", "c", shim.ExecOptions{ExecID: id, Spec: process}); err != nil {
			t.Fatal(err)
		}
		if id == "fails" {
			if _, err := w.m.Start(t.Context(), "default", "c", id); err == nil {
				t.Error("a program that is not there was started")
			}
		}
		if x, err := w.m.Delete(t.Context(), "default", "c", id); err != nil || x.Status != 255 {
			t.Errorf("Delete of %s: %+v, %v", id, x, err)
		}
	}
	if err := w.m.Kill(t.Context(), "default", "c", "", 9, false); err != nil {
		t.Fatal(err)
	}
	w.await("default /tasks/exit c/c 137")
	if n := w.count("default /tasks/exit c/fails 255") + w.count("default /tasks/exit c/unstarted 255"); n > 0 {
		t.Errorf("%d exits are told of processes that never ran", n)
	}
}
