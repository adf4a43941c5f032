package changeset_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/changeset"
)

// TestCopyWithin: links lead nowhere but into the tree, and what is no directory is told from what is not there.
func TestCopyWithin(t *testing.T) {
	top := t.TempDir()
	root := filepath.Join(top, "root")
	for _, dir := range []string{"root/real/sub", "outside"} {
		if err := os.MkdirAll(filepath.Join(top, dir), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"root/real/sub/inside", "outside/secret", "root/file"} {
		if err := os.WriteFile(filepath.Join(top, file), []byte(file), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"absolute": "/real", "up": "../../../real/sub", "out": filepath.Join(top, "outside"), "loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	for sub, want := range map[string]string{"real": "sub/inside", "real/sub": "inside", "absolute": "sub/inside", "absolute/sub": "inside", "up": "inside"} {
		to := filepath.Join(t.TempDir(), "copy")
		if err := changeset.CopyWithin(t.Context(), root, sub, to); err != nil {
			t.Errorf("%s: %v", sub, err)
		} else if st, err := os.Stat(filepath.Join(to, want)); err != nil || st.Mode().Perm() != 0o640 {
			t.Errorf("%s: %v, %v", sub, st, err)
		} else if st, err := os.Stat(to); err != nil || st.Mode().Perm() != 0o750 {
			t.Errorf("%s: the directory itself: %v, %v", sub, st, err)
		}
	}
	for sub, wanted := range map[string]func(error) bool{
		"out": errdefs.IsNotFound, "missing": errdefs.IsNotFound, "real/missing": errdefs.IsNotFound,
		"../outside": errdefs.IsInvalidArgument, "file": errdefs.IsInvalidArgument, "file/below": errdefs.IsInvalidArgument, "loop": func(err error) bool { return err != nil },
	} {
		to := filepath.Join(t.TempDir(), "copy")
		if err := changeset.CopyWithin(t.Context(), root, sub, to); !wanted(err) {
			t.Errorf("%s: %v", sub, err)
		}
		if _, err := os.Lstat(to); err == nil {
			t.Errorf("%s: something was made", sub)
		}
	}
}
