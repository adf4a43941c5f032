package pods

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/network"
	"github.com/slipwayd/slipway/spec"
)

// madeNamespaces is a Host Network Service that is made up.
type madeNamespaces struct {
	all  map[string]bool
	fail error
}

func (n *madeNamespaces) NewNamespace(_ context.Context, id string) error {
	n.all[id] = true // half-way, as far as its caller knows
	return n.fail
}

func (n *madeNamespaces) HasNamespace(_ context.Context, id string) (bool, error) {
	return n.all[id], n.fail
}

func (n *madeNamespaces) RemoveNamespace(_ context.Context, id string) error {
	delete(n.all, id)
	return nil
}

func (n *madeNamespaces) Traffic(_ context.Context, id string) ([]network.Interface, error) {
	if !n.all[id] {
		return nil, errdefs.ErrNotFound
	}
	return []network.Interface{{Name: id, RxBytes: 5}}, nil
}

func windows(t *testing.T) (*onWindows, *madeNamespaces) {
	t.Helper()
	m := &Manager{conf: Config{State: t.TempDir(), Log: slog.New(slog.DiscardHandler)}, life: t.Context()}
	if err := os.Mkdir(m.dir(""), 0o700); err != nil {
		t.Fatal(err)
	}
	made := &madeNamespaces{all: map[string]bool{}}
	w := &onWindows{m: m, Windows: Windows{Namespaces: made, HostProcess: func() (string, error) { return "io.containerd.runhcs.v1", nil }}}
	m.sys = w
	return w, made
}

func windowsPod(w *onWindows, s *spec.Pod) *pod {
	return &pod{id: newID(), runtime: Runtime{Name: "io.containerd.slipway.v1"}, record: podRecord{Spec: s}}
}

func TestWindowsPod(t *testing.T) {
	w, made := windows(t)
	p := windowsPod(w, &spec.Pod{Name: "web"})
	if err := w.make(t.Context(), p, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	id := w.netns(p)
	if !regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(id) || !made.all[id] || len(made.all) != 1 {
		t.Errorf("namespace %q of %v", id, made.all)
	}
	if text, err := os.ReadFile(filepath.Join(w.m.dir(p.id), podFile)); err != nil || string(text) != "{}" {
		t.Errorf("the record beside it: %q, %v", text, err)
	}
	if all, err := w.traffic(t.Context(), []string{"none", id}); err != nil || len(all) != 2 || len(all[0]) != 0 || all[1][0].RxBytes != 5 {
		t.Errorf("traffic %v, %v: one that is gone has none", all, err)
	}
	if !w.alive(p) {
		t.Error("it is not alive")
	}
	delete(made.all, id)
	if w.alive(p) {
		t.Error("it is alive without its namespace")
	}
	made.all[id], made.fail = true, errors.New("the service does not answer")
	if !w.alive(p) {
		t.Error("it is taken for dead though nobody knows")
	}
	for range 2 {
		if err := w.remove(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := os.ReadDir(w.m.dir("")); err != nil || len(left) > 0 || len(made.all) > 0 || w.alive(p) {
		t.Errorf("left: %v, %v, %v", left, made.all, err)
	}
}

func TestWindowsPodFails(t *testing.T) {
	w, made := windows(t)
	made.fail = errors.New("no")
	p := windowsPod(w, &spec.Pod{})
	if err := w.make(t.Context(), p, nil); !errors.Is(err, made.fail) {
		t.Errorf("%v", err)
	}
	if left, err := os.ReadDir(w.m.dir("")); err != nil || len(left) > 0 || len(made.all) > 0 {
		t.Errorf("left: %v, %v, %v", left, made.all, err)
	}
}

// TestHostProcesses: their pods are a directory and no namespace, and run by another's shim, where that is.
func TestHostProcesses(t *testing.T) {
	w, made := windows(t)
	s := &spec.Pod{Security: spec.PodSecurity{Windows: &spec.WindowsSecurity{HostProcess: true}}}
	if err := w.checkPod(s); err != nil {
		t.Fatal(err)
	}
	p := windowsPod(w, s)
	if err := w.make(t.Context(), p, nil); err != nil {
		t.Fatal(err)
	}
	if w.netns(p) != "" || len(made.all) > 0 || !w.alive(p) || p.runtime.Name != "io.containerd.runhcs.v1" || !p.runtime.Foreign {
		t.Errorf("namespace %q, %v, runtime %+v", w.netns(p), made.all, p.runtime)
	}
	w.HostProcess = func() (string, error) { return "", errdefs.ErrFailedPrecondition }
	if err := w.make(t.Context(), windowsPod(w, s), nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("without the shim: %v", err)
	}
	if err := w.checkContainer(p, &spec.PodContainer{Name: "c"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a container that is none in such a pod: %v", err)
	}
}

func TestWindowsRefusals(t *testing.T) {
	w, _ := windows(t)
	local, id := &spec.Profile{Kind: spec.ProfileLocalhost}, int64(1000)
	for words, s := range map[string]spec.Pod{
		"sysctls": {Sysctls: map[string]string{"a": "b"}}, "privileged": {Security: spec.PodSecurity{Privileged: true}},
		"user namespace": {Security: spec.PodSecurity{Namespaces: spec.Namespaces{User: &spec.UserNamespace{}}}},
		"processes":      {Security: spec.PodSecurity{Namespaces: spec.Namespaces{PID: spec.ModeNode}}},
		"host_process":   {Security: spec.PodSecurity{Namespaces: spec.Namespaces{Network: spec.ModeNode}}},
		"SELinux":        {Security: spec.PodSecurity{SELinux: &spec.SELinux{}}}, "AppArmor": {Security: spec.PodSecurity{AppArmor: local}},
		"seccomp": {Security: spec.PodSecurity{Seccomp: local}}, "read-only": {Security: spec.PodSecurity{ReadonlyRootfs: true}},
		"group ids": {Security: spec.PodSecurity{User: &id}},
	} {
		if err := w.checkPod(&s); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), words) {
			t.Errorf("pod: %v, want %q", err, words)
		}
	}
	p := windowsPod(w, &spec.Pod{})
	for words, s := range map[string]spec.PodContainer{
		"use host_process": {Security: spec.ContainerSecurity{Privileged: true}}, "capabilities": {Security: spec.ContainerSecurity{AddCapabilities: []string{"ALL"}}},
		"CDI devices": {CDIDevices: []string{"x"}}, "the same for a pod": {Security: spec.ContainerSecurity{Windows: &spec.WindowsSecurity{HostProcess: true}}},
		"exclude each other": {Resources: &spec.Resources{Windows: &spec.WindowsResources{CPUCount: 1, CPUMaximum: 1}}},
		"group ids":          {Security: spec.ContainerSecurity{Groups: []int64{1}}}, "read-only": {Security: spec.ContainerSecurity{ReadonlyRootfs: true}},
	} {
		if err := w.checkContainer(p, &s); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), words) {
			t.Errorf("container: %v, want %q", err, words)
		}
	}
	plain := spec.PodContainer{Security: spec.ContainerSecurity{Seccomp: &spec.Profile{}, Unset: true}} // as kubelet sends it
	if err := errors.Join(w.checkPod(&spec.Pod{Hostname: "web", CgroupParent: "/kubepods"}), w.checkContainer(p, &plain)); err != nil {
		t.Errorf("nothing is wrong with it: %v", err)
	}
}
