package client

import "testing"

func TestCgroupOf(t *testing.T) {
	for _, tt := range []struct{ daemon, want string }{
		{"5eeff84b-d08b-4ef7-8c91-db650698651c", "/slipway/default/web.5eeff84b"},
		{"short", "/slipway/default/web.short"},
		{"", "/slipway/default/web"},
	} {
		if got := cgroupOf(tt.daemon, "default", "web"); got != tt.want {
			t.Errorf("daemon %q: %s, want %s", tt.daemon, got, tt.want)
		}
	}
}
