package hcssim

import (
	"encoding/json"
	"testing"

	"github.com/Microsoft/hcsshim/hcn"
)

// A pod's network, as hcsshim's users make it.
func TestNetworks(t *testing.T) {
	must(t, hcn.V2ApiSupported())
	n, err := (&hcn.HostComputeNetwork{
		Name: "test-nat", Type: hcn.NAT, SchemaVersion: hcn.V2SchemaVersion(),
		Ipams: []hcn.Ipam{{Type: "Static", Subnets: []hcn.Subnet{{IpAddressPrefix: "10.9.0.0/24", Routes: []hcn.Route{{NextHop: "10.9.0.1", DestinationPrefix: "0.0.0.0/0"}}}}}},
	}).Create()
	must(t, err)
	settings, err := json.Marshal(hcn.PortMappingPolicySetting{Protocol: 6, InternalPort: 80, ExternalPort: 8080})
	must(t, err)
	request := &hcn.HostComputeEndpoint{Name: "e1", SchemaVersion: hcn.V2SchemaVersion(), Policies: []hcn.EndpointPolicy{{Type: hcn.PortMapping, Settings: settings}}}
	e, err := n.CreateEndpoint(request)
	must(t, err)
	if len(e.IpConfigurations) != 1 || e.IpConfigurations[0].IpAddress != "10.9.0.2" {
		t.Errorf("addresses %+v", e.IpConfigurations)
	}
	if _, err := n.CreateEndpoint(request); !hcn.IsPortAlreadyExistsError(err) {
		t.Errorf("a port that is in use: %v", err)
	}
	ns, err := hcn.NewNamespace(hcn.NamespaceTypeHost).Create()
	must(t, err)
	must(t, hcn.AddNamespaceEndpoint(ns.Id, e.Id))
	ids, err := hcn.GetNamespaceEndpointIds(ns.Id)
	must(t, err)
	if len(ids) != 1 || ids[0] != e.Id {
		t.Errorf("endpoints %v of the namespace", ids)
	}
	byName, err := hcn.GetEndpointByName("e1")
	must(t, err)
	if byName.HostComputeNamespace != ns.Id {
		t.Errorf("the endpoint is in namespace %q", byName.HostComputeNamespace)
	}
	must(t, hcn.RemoveNamespaceEndpoint(ns.Id, e.Id), ns.Delete(), e.Delete(), n.Delete())
	if _, err := hcn.GetNetworkByName("test-nat"); !hcn.IsNotFoundError(err) {
		t.Errorf("after deletion: %v", err)
	}
	if _, err := hcn.GetNamespaceByID(ns.Id); !hcn.IsNotFoundError(err) {
		t.Errorf("after deletion: %v", err)
	}
}
