package networks

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
)

const (
	v2    = `"SchemaVersion":{"Major":2,"Minor":0}`
	query = `{` + v2 + `}`
	nat   = `{` + v2 + `,"Name":"nat","Type":"NAT","Ipams":[{"Type":"Static","Subnets":[{"IpAddressPrefix":"10.1.0.0/29","Routes":[{"NextHop":"10.1.0.1","DestinationPrefix":"0.0.0.0/0"}]}]}]}`
)

func want(t *testing.T, err error, c hresult.Code) {
	t.Helper()
	if hresult.Of(err) != c {
		t.Fatalf("%v, want 0x%08x", err, uint32(c))
	}
}

func service(t *testing.T) (*Service, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "networks.json")
	s, err := New(file)
	if err != nil {
		t.Fatal(err)
	}
	return s, file
}

func show(t *testing.T, s *Service, k Kind, h uint64) (v struct {
	ID, HostComputeNamespace, HostComputeNetwork, MacAddress string
	IpConfigurations                                         []ipConfig
	Resources                                                []resource
	NamespaceId                                              uint32
}) {
	t.Helper()
	doc, err := s.Query("c", k, h, query)
	want(t, err, hresult.OK)
	if err := json.Unmarshal([]byte(doc), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestNetworks(t *testing.T) {
	s, file := service(t)
	n, err := s.Create("c", Network, 0, noGUID, nat)
	want(t, err, hresult.OK)
	_, err = s.Create("c", Network, 0, noGUID, nat)
	want(t, err, hresult.NetworkExists)
	var endpoints []string
	for _, address := range []string{"10.1.0.2", "10.1.0.3", "10.1.0.4"} {
		e, err := s.Create("c", Endpoint, n, noGUID, `{`+v2+`,"Name":"e"}`)
		want(t, err, hresult.OK)
		v := show(t, s, Endpoint, e)
		if len(v.IpConfigurations) != 1 || v.IpConfigurations[0].IpAddress != address || v.IpConfigurations[0].PrefixLength != 29 || v.MacAddress == "" {
			t.Errorf("endpoint %+v, want address %s", v, address)
		}
		endpoints = append(endpoints, v.ID)
	}
	ns, err := s.Create("c", Namespace, 0, noGUID, `{`+v2+`,"Type":"Host"}`)
	want(t, err, hresult.OK)
	id := show(t, s, Namespace, ns).ID
	add := `{"ResourceType":"Endpoint","RequestType":"Add","Settings":{"EndpointId":"` + endpoints[0] + `"}}`
	want(t, s.Modify("c", Namespace, ns, add), hresult.OK)
	other, err := s.Create("c", Namespace, 0, noGUID, `{`+v2+`,"Type":"Host"}`)
	want(t, err, hresult.OK)
	want(t, s.Modify("c", Namespace, other, add), hresult.EndpointAttached)
	want(t, s.Modify("c", Namespace, ns, strings.Replace(add, endpoints[0], "none", 1)), hresult.EndpointNotFound)

	s, err = New(file) // the service's death takes handles, nothing else
	want(t, err, hresult.OK)
	_, err = s.Query("c", Namespace, ns, query)
	want(t, err, hresult.InvalidHandle)
	ns, err = s.Open("c", Namespace, id)
	want(t, err, hresult.OK)
	if v := show(t, s, Namespace, ns); len(v.Resources) != 1 || v.Resources[0].Data.ID != endpoints[0] {
		t.Errorf("namespace %+v", v)
	}
	list, err := s.Enumerate(Endpoint, `{`+v2+`,"Filter":"{\"ID\":\"`+strings.ToUpper(endpoints[1])+`\"}"}`)
	want(t, err, hresult.OK)
	if list != `["`+endpoints[1]+`"]` {
		t.Errorf("filtered: %s", list)
	}
	want(t, s.Delete(Endpoint, endpoints[0]), hresult.OK)
	if v := show(t, s, Namespace, ns); len(v.Resources) != 0 {
		t.Errorf("the namespace has a deleted endpoint: %+v", v)
	}
	list, err = s.Enumerate(Network, query)
	want(t, err, hresult.OK)
	want(t, s.Delete(Network, strings.Trim(list, `[]"`)), hresult.OK)
	if list, _ := s.Enumerate(Endpoint, query); list != "[]" {
		t.Errorf("endpoints of a deleted network: %s", list)
	}
	want(t, s.Delete(Network, endpoints[0]), hresult.NetworkNotFound)
}

func TestRefused(t *testing.T) {
	s, _ := service(t)
	n, err := s.Create("c", Network, 0, noGUID, nat)
	want(t, err, hresult.OK)
	ports := `{` + v2 + `,"Policies":[{"Type":"PortMapping","Settings":{"Protocol":6,"InternalPort":80,"ExternalPort":8080}}]}`
	_, err = s.Create("c", Endpoint, n, noGUID, ports)
	want(t, err, hresult.OK)
	for _, c := range []struct {
		k    Kind
		doc  string
		code hresult.Code
	}{
		{Network, `{}`, hresult.InvalidNetworkJSON},
		{Network, `{` + v2 + `}`, hresult.InvalidNetworkType},
		{Network, `{` + v2 + `,"Type":"NAT","Colour":"red"}`, hresult.InvalidNetworkJSON},
		{Network, `{` + v2 + `,"Type":"NAT","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.0.0.0/33"}]}]}`, hresult.InvalidIP},
		{Endpoint, ports, hresult.PortExists},
		{Endpoint, `{` + v2 + `,"HostComputeNetwork":"another"}`, hresult.InvalidEndpoint},
		{Endpoint, `{` + v2 + `,"HostComputeNamespace":"x"}`, hresult.InvalidNetworkJSON},
		{Endpoint, `{` + v2 + `,"IpConfigurations":[{"IpAddress":"10.2.0.1"}]}`, hresult.InvalidIP},
		{Endpoint, `{` + v2 + `,"IpConfigurations":[{"IpAddress":"10.1.0.2"}]}`, hresult.InvalidIP},
		{Endpoint, `{` + v2 + `,"Policies":[{"Settings":{}}]}`, hresult.InvalidPolicyType},
		{Endpoint, `{` + v2 + `,"Policies":[{"Type":"PortMapping","Settings":{"Protocol":1,"InternalPort":1}}]}`, hresult.InvalidPolicy},
	} {
		_, err := s.Create("c", c.k, n, noGUID, c.doc)
		if hresult.Of(err) != c.code {
			t.Errorf("%s %s: %v, want 0x%08x", c.k, c.doc, err, uint32(c.code))
		}
	}
	_, err = s.Enumerate(Network, `{}`)
	want(t, err, hresult.InvalidNetworkJSON)
	s.Gone("c")
	want(t, s.Close("c", Network, n), hresult.InvalidHandle)
}

func TestPolicies(t *testing.T) {
	s, _ := service(t)
	n, err := s.Create("c", Network, 0, noGUID, nat)
	want(t, err, hresult.OK)
	e, err := s.Create("c", Endpoint, n, noGUID, query)
	want(t, err, hresult.OK)
	acl := `{"ResourceType":"Policy","RequestType":"%","Settings":{"Policies":[{"Type":"ACL","Settings":{}}]}}`
	for _, step := range []struct {
		how  string
		have int
	}{{"Add", 1}, {"Add", 2}, {"Update", 1}, {"Remove", 0}} {
		want(t, s.Modify("c", Endpoint, e, strings.Replace(acl, "%", step.how, 1)), hresult.OK)
		doc, _ := s.Query("c", Endpoint, e, query)
		if got := strings.Count(doc, `"ACL"`); got != step.have {
			t.Errorf("after %s: %s", step.how, doc)
		}
	}
	want(t, s.Modify("c", Endpoint, e, strings.Replace(acl, "%", "Guess", 1)), hresult.InvalidNetworkJSON)
	want(t, s.Modify("c", Network, n, `{"ResourceType":"Colour","RequestType":"Add"}`), hresult.RequestUnsupported)
}
