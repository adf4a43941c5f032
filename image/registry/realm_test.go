package registry

import (
	"net/netip"
	"testing"
)

func TestMayName(t *testing.T) {
	for _, c := range []struct {
		from, to string
		want     bool
	}{
		{"10.1.2.3", "10.9.9.9", true}, {"10.1.2.3", "192.168.1.1", true}, {"fd00::1", "fd12::1", true}, {"::ffff:10.1.2.3", "172.16.0.1", true},
		{"127.0.0.1", "127.0.0.2", true}, {"127.0.0.1", "10.0.0.1", true}, {"::1", "127.0.0.1", true},
		{"10.1.2.3", "127.0.0.1", false}, {"10.1.2.3", "169.254.169.254", false}, {"127.0.0.1", "169.254.169.254", false},
		{"10.1.2.3", "100.100.100.200", false}, {"10.1.2.3", "0.0.0.0", false}, {"10.1.2.3", "::ffff:127.0.0.1", false}, {"10.1.2.3", "fe80::1", false},
		{"8.8.8.8", "10.0.0.1", false}, {"8.8.8.8", "127.0.0.1", false}, {"169.254.1.1", "10.0.0.1", false}, {"100.64.0.1", "10.0.0.1", false},
	} {
		if got := mayName(netip.MustParseAddr(c.from), netip.MustParseAddr(c.to)); got != c.want {
			t.Errorf("%s names %s: %v", c.from, c.to, got)
		}
	}
	if mayName(netip.Addr{}, netip.MustParseAddr("10.0.0.1")) {
		t.Error("nobody may name an address")
	}
}
