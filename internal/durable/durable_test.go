package durable

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path+".new", []byte("what a crash has left"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"the first is longer", "second", ""} {
		if err := Replace(path, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	if names, _ := filepath.Glob(path + "*"); len(names) != 1 {
		t.Errorf("beside it is left: %v", names)
	}
	if err := Replace(filepath.Join(path, "below a file"), nil); err == nil {
		t.Error("wrote below a file")
	}
}
