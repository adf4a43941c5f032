package durable

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRenameTree(t *testing.T) {
	parent := t.TempDir()
	from, to := filepath.Join(parent, "from"), filepath.Join(parent, "to")
	if err := os.MkdirAll(filepath.Join(from, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(from, "sub/file"), []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := RenameTree(from, to); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(to, "sub/file")); err != nil || string(data) != "data" {
		t.Errorf("%q, %v", data, err)
	}
	if names, _ := os.ReadDir(parent); len(names) != 1 {
		t.Errorf("beside it is left: %v", names)
	}
	if err := RenameTree(from, to); err == nil {
		t.Error("renamed what is not there")
	}
}
