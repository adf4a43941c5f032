package windowsfilter

import (
	"testing"

	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/testsuite"
)

func openReal(t *testing.T) *Driver {
	t.Helper()
	host, err := NewHost()
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(t.TempDir(), host)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// On Windows, or over testsuite/hcssim under wine: ci/wine-exec.
func TestDriverOverHCS(t *testing.T) {
	testsuite.TestWindowsDriver(t, func(t *testing.T) storage.Driver { return openReal(t) })
}
