package native

import (
	"os"
	"testing"

	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/testsuite"
)

func open(t testing.TB) *Driver {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("unpacking owners and devices needs root")
	}
	d, err := New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDriver(t *testing.T) {
	testsuite.TestDriver(t, func(t *testing.T) storage.Driver { return open(t) })
}
