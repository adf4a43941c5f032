package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCheck: the service takes what platform/windows writes, and not with a property more.
func TestCheck(t *testing.T) {
	golden, err := filepath.Glob("../../../platform/windows/document/testdata/*.json")
	if err != nil || len(golden) < 5 {
		t.Fatalf("golden documents %q, %v", golden, err)
	}
	if err := run(append([]string{"check"}, golden...)); err != nil {
		t.Error(err)
	}
	for _, name := range golden {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		more := filepath.Join(t.TempDir(), "more.json")
		if err := os.WriteFile(more, []byte(strings.Replace(string(b), "{", `{"Surprise":1,`, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := run([]string{"check", more}); err == nil || !strings.Contains(err.Error(), "Surprise") {
			t.Errorf("%s with a property more: %v", name, err)
		}
	}
	if err := run([]string{"check", "-process", golden[0]}); err == nil {
		t.Error("a system is taken for a process")
	}
}
