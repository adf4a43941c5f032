package pods

import (
	"slices"
	"testing"

	"github.com/slipwayd/slipway/spec"
)

func TestDeclaredPaths(t *testing.T) {
	declared := map[string]struct{}{}
	for _, v := range []string{"/data", "/data/", "/var/../cache", "relative", "", "/", "//", "/..", "/proc", "/dev/", "/dev/shm", "/hidden", "/also/hidden/"} {
		declared[v] = struct{}{}
	}
	got := declaredPaths(declared, []spec.PodMount{{Destination: "/hidden/"}, {Destination: "/also/hidden"}, {Destination: "/other"}})
	if want := []string{"/cache", "/data", "/dev/shm"}; !slices.Equal(got, want) {
		t.Errorf("got %q, not %q", got, want)
	}
}
