package hns

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"testing"

	"github.com/Microsoft/go-winio/pkg/guid"
	"github.com/Microsoft/hcsshim/hcn"
	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/network"
)

// service is that of the machine, or of testsuite/hcssim, with a network of its own.
func service(t *testing.T, kind string) (*Service, Network) {
	t.Helper()
	n := Network{Name: "slipway-test-" + kind, Kind: kind, Subnet: netip.MustParsePrefix("172.31.240.0/24"), Gateway: netip.MustParseAddr("172.31.240.1"), Adapter: "Ethernet"}
	s, err := Open(n.Name)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is there
		if err := s.Ensure(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for range 2 {
			if err := s.RemoveNetwork(context.Background(), n.Name); err != nil {
				t.Error(err)
			}
		}
	})
	return s, n
}

func namespace(t *testing.T, s *Service) string {
	t.Helper()
	id, err := guid.NewV4()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.NewNamespace(t.Context(), id.String()); err != nil {
			t.Fatal(err)
		}
	}
	return id.String()
}

func TestAttach(t *testing.T) {
	for _, kind := range []string{NAT, L2Bridge} {
		t.Run(kind, func(t *testing.T) {
			s, n := service(t, kind)
			if err := s.Status(t.Context()); err != nil {
				t.Error(err)
			}
			p := network.Pod{
				ID: "pod-" + kind, NetNS: namespace(t, s), Ports: []network.Port{{Container: 80, Host: 8080}, {Container: 90}},
				DNS: network.DNS{Servers: []string{"10.0.0.10"}, Searches: []string{"cluster.local"}},
			}
			got, err := s.Attach(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			if ip, err := netip.ParseAddr(got.IPs[0]); err != nil || !n.Subnet.Contains(ip) || ip == n.Gateway {
				t.Errorf("the pod's address is %v, %v", got.IPs, err)
			}
			var e hcn.HostComputeEndpoint
			if err := json.Unmarshal(got.Result, &e); err != nil || len(e.Dns.ServerList) != 1 || e.Dns.Domain != "cluster.local" || len(e.Routes) != 1 {
				t.Errorf("the endpoint is %+v, %v", e, err)
			}
			want := map[hcn.EndpointPolicyType]bool{hcn.PortMapping: true, hcn.OutBoundNAT: kind == L2Bridge}
			for _, policy := range e.Policies {
				if !want[policy.Type] {
					t.Errorf("the endpoint has policy %s", policy.Type)
				}
			}
			if there, err := s.HasNamespace(t.Context(), p.NetNS); err != nil || !there {
				t.Errorf("the namespace is there: %v, %v", there, err)
			}
			if all, err := s.Traffic(t.Context(), p.NetNS); err != nil || len(all) != 1 || all[0].Name != e.Id {
				t.Errorf("traffic of %+v, %v", all, err)
			}
			if ids, err := hcn.GetNamespaceEndpointIds(p.NetNS); err != nil || len(ids) != 1 || ids[0] != e.Id {
				t.Errorf("the namespace has endpoints %v, %v", ids, err)
			}
			for range 2 {
				if err := s.Detach(t.Context(), p); err != nil {
					t.Fatal(err)
				}
				if err := s.RemoveNamespace(t.Context(), p.NetNS); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := hcn.GetEndpointByName(endpointName(p.ID)); !hcn.IsNotFoundError(err) {
				t.Errorf("the endpoint is left: %v", err)
			}
			if there, err := s.HasNamespace(t.Context(), p.NetNS); err != nil || there {
				t.Errorf("the removed namespace is there: %v, %v", there, err)
			}
			if _, err := s.Traffic(t.Context(), p.NetNS); !errors.Is(err, errdefs.ErrNotFound) {
				t.Errorf("traffic of no namespace: %v", err)
			}
		})
	}
}

// A failed Attach is undone by Detach.
func TestAttachFails(t *testing.T) {
	s, n := service(t, NAT)
	p := network.Pod{ID: "pod-fails", NetNS: "01234567-0123-0123-0123-0123456789ab"} // which is not there
	if _, err := s.Attach(t.Context(), p); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Attach to no namespace: %v", err)
	}
	if err := s.Detach(t.Context(), p); err != nil {
		t.Error(err)
	}
	if _, err := hcn.GetEndpointByName(endpointName(p.ID)); !hcn.IsNotFoundError(err) {
		t.Errorf("the endpoint is left: %v", err)
	}
	other := n
	other.Subnet, other.Gateway = netip.MustParsePrefix("10.9.0.0/24"), netip.MustParseAddr("10.9.0.1")
	if err := s.Ensure(t.Context(), other); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("a network of another subnet under the same name: %v", err)
	}
	elsewhere, err := Open("slipway-test-none")
	if err != nil {
		t.Fatal(err)
	}
	p.NetNS = namespace(t, s)
	if _, err := elsewhere.Attach(t.Context(), p); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("Attach to no network: %v", err)
	}
	if err := elsewhere.Status(t.Context()); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("Status of no network: %v", err)
	}
	if err := s.RemoveNamespace(t.Context(), p.NetNS); err != nil {
		t.Error(err)
	}
}
