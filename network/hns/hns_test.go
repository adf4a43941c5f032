package hns

import (
	"errors"
	"net/netip"
	"reflect"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/network"
)

func TestMappings(t *testing.T) {
	for _, c := range []struct {
		port network.Port
		want []mapping
		bad  bool
	}{
		{port: network.Port{Container: 80}},
		{port: network.Port{Container: 80, Host: 8080}, want: []mapping{{6, 80, 8080, ""}}},
		{port: network.Port{Protocol: "udp", Container: 53, Host: 53, HostIP: "10.0.0.1"}, want: []mapping{{17, 53, 53, "10.0.0.1"}}},
		{port: network.Port{Protocol: "tcp", Container: 53, Host: 53, HostIP: "0.0.0.0"}, want: []mapping{{6, 53, 53, ""}}},
		{port: network.Port{Protocol: "sctp", Container: 1, Host: 1}, bad: true},
		{port: network.Port{Container: 70000, Host: 1}, bad: true},
		{port: network.Port{Container: 1, Host: -1}, bad: true},
		{port: network.Port{Container: 1, Host: 1, HostIP: "here"}, bad: true},
	} {
		got, err := mappings([]network.Port{c.port})
		if c.bad != errors.Is(err, errdefs.ErrInvalidArgument) || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%+v is %+v, %v", c.port, got, err)
		}
	}
}

func TestNetworkCheck(t *testing.T) {
	good := Network{Name: "n", Kind: NAT, Subnet: netip.MustParsePrefix("172.28.0.0/20"), Gateway: netip.MustParseAddr("172.28.0.1")}
	if err := good.check(); err != nil {
		t.Errorf("a good network: %v", err)
	}
	for what, change := range map[string]func(*Network){
		"no name":          func(n *Network) { n.Name = "" },
		"unknown kind":     func(n *Network) { n.Kind = "overlay" },
		"bits in the host": func(n *Network) { n.Subnet = netip.MustParsePrefix("172.28.0.9/20") },
		"no subnet":        func(n *Network) { n.Subnet = netip.Prefix{} },
		"gateway outside":  func(n *Network) { n.Gateway = netip.MustParseAddr("10.0.0.1") },
		"no adapter":       func(n *Network) { n.Kind = L2Bridge },
	} {
		n := good
		change(&n)
		if err := n.check(); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, id := range []string{"", "host", "/var/run/netns/x", "0123456-0123-0123-0123-0123456789ab"} {
		if err := checkNamespace(id); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("namespace %q: %v", id, err)
		}
	}
}
