package ipc_test

import (
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/ipc"
)

func TestTryLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	for range 2 { // the file of one that has ended is no hindrance
		f, err := ipc.TryLock(path)
		if err != nil {
			t.Fatal(err)
		}
		if other, err := ipc.TryLock(path); !errdefs.IsUnavailable(err) {
			t.Errorf("a second lock: %v, %v", other, err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if f, err := ipc.TryLock(filepath.Join(path, "no", "such")); err == nil || errdefs.IsUnavailable(err) {
		t.Errorf("a lock nowhere: %v, %v", f, err)
	}
}
