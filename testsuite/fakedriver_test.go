package testsuite

import (
	"testing"

	"github.com/slipwayd/slipway/storage"
)

func TestFakeDriver(t *testing.T) {
	TestDriver(t, func(*testing.T) storage.Driver { return NewFakeDriver() })
}
