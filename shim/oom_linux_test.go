package shim_test

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/shim"
)

// What a task died of is known until it is deleted, to another shim and to another daemon too; an ordinary SIGKILL is not taken for it.
func TestOOMKilled(t *testing.T) {
	w := newWorld(t, shim.Config{})
	o := w.options("oom", shim.Streams{})
	spec := specOf("oom", "sh", "-c", "x=x; while :; do x=$x$x; done")
	limit := int64(32 << 20)
	spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
	o.Spec = asJSON(t, spec)
	if _, err := w.m.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	w.run("killed", shim.Streams{}, "sleep", "1000")
	if err := w.m.Kill(t.Context(), "default", "killed", "", 9, false); err != nil {
		t.Fatal(err)
	}
	if _, err := w.m.Start(t.Context(), "default", "oom", ""); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		for id, want := range map[string]bool{"oom": true, "killed": false} {
			if x := w.wait(id, ""); x.Status != 137 {
				t.Errorf("%s: exit of %s: %+v", when, id, x)
			}
			if s, err := w.m.State(t.Context(), "default", id, ""); err != nil || s.OOMKilled != want {
				t.Errorf("%s: state of %s: %+v, %v", when, id, s, err)
			}
		}
	}
	w.await("default /tasks/oom oom", "default /tasks/exit oom/oom 137")
	check("at once")
	if err := w.m.Close(); err != nil {
		t.Fatal(err)
	}
	w.killShim()
	w.open(shim.Config{})
	check("to the next")
}
