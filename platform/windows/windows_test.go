package windows_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/windows"
	"github.com/slipwayd/slipway/platform/windows/hcs/hcstest"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/testsuite"
)

func newExecutor(t *testing.T, root string, h *hcstest.Host) *windows.Executor {
	t.Helper()
	e, err := windows.New(windows.Config{Root: root, Host: h})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func ociSpec(args ...string) *specs.Spec {
	return &specs.Spec{Version: specs.Version, Process: &specs.Process{Args: args, Cwd: `C:\`}, Windows: &specs.Windows{}}
}

func platformSpec(t *testing.T, id string, spec *specs.Spec) platform.Spec {
	t.Helper()
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	return platform.Spec{
		ID: id, Name: id, Bundle: t.TempDir(), OCI: data,
		Rootfs: []storage.Mount{{Type: "windows-layer", Source: `C:\layers\` + id, Options: []string{"rw", `parentLayerPaths=["C:\\layers\\2","C:\\layers\\1"]`}}},
	}
}

// TestExecutor runs the conformance suite over a service that is made up.
func TestExecutor(t *testing.T) {
	for _, build := range []uint16{20348, 14393} { // schema 2, and 1
		h := &hcstest.Host{Build: build}
		testsuite.TestExecutor(t, func(t *testing.T) testsuite.ExecutorFixture {
			root := t.TempDir()
			e := newExecutor(t, root, h)
			t.Cleanup(func() {
				if left := h.Left(); len(left) > 0 {
					t.Errorf("left: %q", left)
				}
			})
			return testsuite.ExecutorFixture{
				Executor: e, LateStart: true, FixedLimits: build < 17763,
				Spec: func(t *testing.T, id string, args ...string) platform.Spec {
					return platformSpec(t, id, ociSpec(args...))
				},
				Restart: func(t *testing.T) platform.Executor {
					e.Close()
					return newExecutor(t, root, h)
				},
			}
		})
	}
}

// TestUndo lets each step of Create and Start fail, and looks what is left.
func TestUndo(t *testing.T) {
	broken := errors.New("broken")
	for _, step := range []string{"Mount", "LayerID", "AddGuard", "CreateSystem", "Start", "CreateProcess"} {
		t.Run(step, func(t *testing.T) {
			h, root := &hcstest.Host{}, t.TempDir()
			e := newExecutor(t, root, h)
			h.Fail(step, broken)
			spec := ociSpec("sleep", "1")
			spec.Windows.CredentialSpec = `{"CmsPlugins":["ActiveDirectory"]}`
			c, err := e.Create(t.Context(), platformSpec(t, "a", spec))
			if c != nil && err == nil {
				if err = c.Init().Start(t.Context()); err == nil {
					t.Fatal("Start worked")
				}
				if exit, err := c.Init().Wait(t.Context()); err != nil || exit.Status == 0 {
					t.Errorf("Wait = %+v, %v", exit, err)
				}
				if err := c.Delete(t.Context()); err != nil {
					t.Errorf("Delete: %v", err)
				}
			}
			if !errors.Is(err, broken) {
				t.Errorf("error %v", err)
			}
			if left := h.Left(); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
			if files, _ := filepath.Glob(filepath.Join(root, "*")); len(files) > 0 {
				t.Errorf("left: %q", files)
			}
		})
	}
}

// TestSilence: a system ends and the service says nothing of its processes, be it while somebody watches or not.
func TestSilence(t *testing.T) {
	for _, watched := range []bool{true, false} {
		h, root := &hcstest.Host{}, t.TempDir()
		e := newExecutor(t, root, h)
		c, err := e.Create(t.Context(), platformSpec(t, "a", ociSpec("sleep", "1")))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Init().Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if watched {
			h.Crash("")
		} else {
			e.Close()
			h.Crash("")
			if c, err = newExecutor(t, root, h).Adopt(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
		}
		if exit, err := c.Init().Wait(t.Context()); err != nil || !exit.Unknown || exit.Status != 255 {
			t.Errorf("watched %v: Wait = %+v, %v; want an unknown exit", watched, exit, err)
		}
		if err := c.Delete(t.Context()); err != nil {
			t.Error(err)
		}
		if left := h.Left(); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	}
}

// TestCutShort adopts what a Create or a Start left that died in the middle.
func TestCutShort(t *testing.T) {
	for name, cut := range map[string]func(root string, h *hcstest.Host) error{
		"no record": func(root string, h *hcstest.Host) error { return removeAll(filepath.Join(root, "a", "record.json")) },
		"no system": func(root string, h *hcstest.Host) error { h.Crash(""); return nil },
		"no pid":    func(root string, h *hcstest.Host) error { return removeAll(filepath.Join(root, "a", "init")) },
	} {
		t.Run(name, func(t *testing.T) {
			h, root := &hcstest.Host{}, t.TempDir()
			e := newExecutor(t, root, h)
			c, err := e.Create(t.Context(), platformSpec(t, "a", ociSpec("sleep", "1")))
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Init().Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			e.Close()
			if err := cut(root, h); err != nil {
				t.Fatal(err)
			}
			e = newExecutor(t, root, h)
			if c, err = e.Adopt(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
			if exit, err := c.Init().Wait(t.Context()); err != nil || !exit.Unknown {
				t.Errorf("Wait = %+v, %v", exit, err)
			}
			if err := c.Delete(t.Context()); err != nil {
				t.Error(err)
			}
			if left := h.Left(); len(left) > 0 && name != "no record" {
				t.Errorf("left: %q", left)
			}
			if ids, err := e.List(t.Context()); err != nil || len(ids) > 0 {
				t.Errorf("List = %v, %v", ids, err)
			}
		})
	}
}

// TestOldHosts have no signals: TERM shuts the whole container down.
func TestOldHosts(t *testing.T) {
	h := &hcstest.Host{NoSignals: true}
	c, err := newExecutor(t, t.TempDir(), h).Create(t.Context(), platformSpec(t, "a", ociSpec("sleep", "1")))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Init().Signal(t.Context(), 2, false); !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("INT: %v", err)
	}
	if err := c.Init().Signal(t.Context(), 15, false); err != nil {
		t.Errorf("TERM: %v", err)
	}
	if exit, err := c.Init().Wait(t.Context()); err != nil || exit.Status == 0 {
		t.Errorf("Wait = %+v, %v", exit, err)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestDeaf: what does not end when init has ended is terminated.
func TestDeaf(t *testing.T) {
	h := &hcstest.Host{Deaf: true}
	e, err := windows.New(windows.Config{Root: t.TempDir(), Host: h, Grace: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	c, err := e.Create(t.Context(), platformSpec(t, "a", ociSpec("cat")))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Init().Start(t.Context()); err != nil { // no input: it ends at once
		t.Fatal(err)
	}
	if exit, err := c.Init().Wait(t.Context()); err != nil || exit.Status != 0 {
		t.Errorf("Wait = %+v, %v", exit, err)
	}
	if left := h.Left(); !slices.Equal(left, []string{`mount C:\layers\a`}) {
		t.Errorf("left: %q", left)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRefused(t *testing.T) {
	e := newExecutor(t, t.TempDir(), &hcstest.Host{})
	for _, id := range []string{"nul", "COM1.x", "a.", "a:b", `a\b`} {
		if _, err := e.Create(t.Context(), platformSpec(t, id, ociSpec("true"))); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("id %q: %v", id, err)
		}
	}
	s := platformSpec(t, "a", ociSpec("true"))
	for name, m := range map[string]storage.Mount{
		"overlay":      {Type: "overlay", Source: "overlay"},
		"no parents":   {Type: "windows-layer", Source: `C:\layers\3`},
		"bad parents":  {Type: "windows-layer", Source: `C:\layers\3`, Options: []string{"parentLayerPaths=3"}},
		"read-only":    {Type: "windows-layer", Source: `C:\layers\3`, Options: []string{`parentLayerPaths=["C:\\layers\\1"]`, "ro"}},
		"relative":     {Type: "windows-layer", Source: `layers\3`, Options: []string{`parentLayerPaths=["C:\\layers\\1"]`}},
		"below a root": {Type: "windows-layer", Source: `C:\layers\3`, Target: "x"},
	} {
		s.Rootfs = []storage.Mount{m}
		if _, err := e.Create(t.Context(), s); !errors.Is(err, errdefs.ErrInvalidArgument) && !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s = platformSpec(t, "a", ociSpec("true"))
	s.Checkpoint = `C:\images`
	if _, err := e.Create(t.Context(), s); !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("from a checkpoint: %v", err)
	}
	if ids, err := e.List(t.Context()); err != nil || len(ids) > 0 {
		t.Errorf("List = %v, %v", ids, err)
	}
}

func removeAll(path string) error { return os.RemoveAll(path) }

// BenchmarkLifeCycle is what the executor itself costs of create, start, wait and delete: the service takes no time.
func BenchmarkLifeCycle(b *testing.B) {
	e, err := windows.New(windows.Config{Root: b.TempDir(), Host: &hcstest.Host{}})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	oci, err := json.Marshal(ociSpec("true"))
	if err != nil {
		b.Fatal(err)
	}
	s := platform.Spec{ID: "bench", OCI: oci, Rootfs: []storage.Mount{{Type: "windows-layer", Source: `C:\s`, Options: []string{`parentLayerPaths=["C:\\p"]`}}}}
	for b.Loop() {
		c, err := e.Create(b.Context(), s)
		if err == nil {
			err = c.Init().Start(b.Context())
		}
		if err == nil {
			_, err = c.Init().Wait(b.Context())
		}
		if err == nil {
			err = c.Delete(b.Context())
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
