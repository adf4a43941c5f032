package windows_test

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/windows"
)

func TestExecutorRefuses(t *testing.T) {
	e, err := windows.New(windows.Config{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	_, create := e.Create(t.Context(), platform.Spec{ID: "a"})
	_, adopt := e.Adopt(t.Context(), "a")
	_, list := e.List(t.Context())
	for what, err := range map[string]error{"Create": create, "Adopt": adopt, "List": list} {
		if !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Errorf("%s = %v, want NotImplemented", what, err)
		}
	}
}
