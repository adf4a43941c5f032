package engine

import (
	"errors"
	"testing"

	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/shim"
)

func TestWantsRestart(t *testing.T) {
	for _, tt := range []struct {
		policy, count string
		stopped       string
		end           ended
		want          bool
	}{
		{policy: "", want: true},
		{policy: "always", end: ended{status: 1}, want: true},
		{policy: "always", stopped: "true"},
		{policy: "always", stopped: "true", end: ended{before: true}, want: true},
		{policy: "unless-stopped", stopped: "false", want: true},
		{policy: "unless-stopped", stopped: "true", end: ended{before: true}},
		{policy: "on-failure"},
		{policy: "on-failure", end: ended{before: true}},
		{policy: "on-failure", count: "100", end: ended{status: 1}, want: true},
		{policy: "on-failure", stopped: "true", end: ended{status: 137}},
		{policy: "on-failure:3", count: "2", end: ended{status: 1}, want: true},
		{policy: "on-failure:3", count: "3", end: ended{status: 1}},
		{policy: "on-failure:3", end: ended{status: 1}, want: true},
		{policy: "no", end: ended{status: 1}},
		{policy: "sometimes"},
	} {
		labels := map[string]string{labelRestartPolicy: tt.policy, labelRestartCount: tt.count, labelRestartStopped: tt.stopped}
		if got := wantsRestart(labels, tt.end); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

func TestRestarts(t *testing.T) {
	b := newBench(t)
	r := newRestarter(b.Engine)
	b.restarts = r // nobody runs it
	policy := func(policy, log string) map[string]string {
		return map[string]string{labelRestartStatus: "running", labelRestartPolicy: policy, labelRestartLog: log}
	}
	b.container(t, "always", policy("always", "file:///log"))
	b.container(t, "twice", policy("on-failure:2", ""))
	b.container(t, "fine", policy("on-failure", ""))
	b.container(t, "unmarked", nil)
	all := []string{"always", "twice", "fine", "unmarked"}
	for _, id := range all {
		b.task(t, id)
	}
	for range 3 {
		for _, id := range all {
			status := uint32(1)
			if id == "fine" {
				status = 0
			}
			b.tasks.endWith(benchNS, id, status)
		}
		if r.pass(t.Context()) {
			t.Fatal("a pass failed")
		}
	}
	for id, want := range map[string]struct {
		status shim.Status
		count  string
	}{"always": {shim.Running, "3"}, "twice": {shim.Stopped, "2"}, "fine": {shim.Stopped, ""}, "unmarked": {shim.Stopped, ""}} {
		st, err := b.tasks.State(t.Context(), benchNS, id, "")
		c, cerr := b.GetContainer(t.Context(), benchNS, id)
		if err := errors.Join(err, cerr); err != nil || st.Status != want.status || c.Labels[labelRestartCount] != want.count {
			t.Errorf("%s: %v, restarted %q times, %v; want %v", id, st.Status, c.Labels[labelRestartCount], err, want)
		}
	}
	for _, o := range b.tasks.created[len(all):] { // the restarts
		if log := map[string]string{"always": "file:///log"}[o.ID]; o.Streams != (shim.Streams{Stdout: log, Stderr: log}) {
			t.Errorf("streams of %s: %+v", o.ID, o.Streams)
		}
	}
	stop := metadata.Container{ID: "always", Labels: map[string]string{labelRestartStatus: "stopped"}}
	if _, err := b.UpdateContainer(t.Context(), benchNS, stop, "labels."+labelRestartStatus); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if r.pass(t.Context()) {
			t.Fatal("a pass failed")
		}
	}
	if st, err := b.tasks.State(t.Context(), benchNS, "always", ""); err != nil || st.Status != shim.Stopped {
		t.Errorf("what is to be stopped is %v, %v", st.Status, err)
	}
}

// After the machine was off no container has a task; later one that has none is about to get it from its client.
func TestRestartsAtStart(t *testing.T) {
	b := newBench(t)
	r := newRestarter(b.Engine)
	b.restarts = r
	marked := map[string]string{labelRestartStatus: "running"}
	b.container(t, "early", marked)
	r.begin(t.Context())
	b.container(t, "late", marked)
	if r.pass(t.Context()) || len(b.tasks.created) != 1 || b.tasks.created[0].ID != "early" {
		t.Errorf("made tasks of %+v", b.tasks.created)
	}
}

// A task that cannot be made at first is tried again, and forgotten with its container.
func TestRestartFails(t *testing.T) {
	b := newBench(t)
	r := newRestarter(b.Engine)
	b.restarts = r
	b.container(t, "c", map[string]string{labelRestartStatus: "running"})
	b.task(t, "c")
	b.tasks.endWith(benchNS, "c", 1)
	b.driver.Fail = func(method, _ string) error {
		if method == "Mounts" {
			return errors.New("no mounts")
		}
		return nil
	}
	for range 2 {
		if !r.pass(t.Context()) || len(r.unfinished) != 1 {
			t.Errorf("unfinished: %v", r.unfinished)
		}
	}
	b.driver.Fail = nil
	if r.pass(t.Context()) || len(r.unfinished) != 0 || len(b.tasks.created) != 2 {
		t.Errorf("unfinished: %v, made: %+v", r.unfinished, b.tasks.created)
	}
}
