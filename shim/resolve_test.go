package shim

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/containerd/errdefs"
)

// TestRunhcs finds hcsshim's shim, which runs what the built-in executor of Windows does not, by the name that errors give for it.
func TestRunhcs(t *testing.T) {
	m, dir := &Manager{}, t.TempDir()
	t.Setenv("PATH", dir)
	const name = "io.containerd.runhcs.v1"
	if got, _, err := m.resolve(name); name == hostRuntime && (got != "" || err != nil) || name != hostRuntime && !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("without it: %q, %v", got, err)
	}
	want := filepath.Join(dir, "containerd-shim-runhcs-v1")
	if runtime.GOOS == "windows" {
		want += ".exe"
	}
	if err := os.WriteFile(want, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, _, err := m.resolve(name); err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}
