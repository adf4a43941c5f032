package content_test

import (
	"testing"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/testsuite"
)

func open(t testing.TB, dir string) *content.FS {
	t.Helper()
	s, err := content.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestFS(t *testing.T) {
	testsuite.TestContent(t, func(t *testing.T) content.Store { return open(t, t.TempDir()) })
}
