package networks

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
)

// properties are what objects of each kind may have.
var properties = map[Kind][]string{
	Network:      {"ID", "Name", "Type", "Policies", "MacPool", "Dns", "Ipams", "Flags", "Health", "SchemaVersion"},
	Endpoint:     {"ID", "Name", "HostComputeNetwork", "Policies", "IpConfigurations", "Dns", "Routes", "MacAddress", "Flags", "Health", "SchemaVersion"},
	Namespace:    {"ID", "NamespaceId", "Type", "Resources", "SchemaVersion"},
	LoadBalancer: {"ID", "HostComputeEndpoints", "SourceVIP", "FrontendVIPs", "PortMappings", "SchemaVersion", "Flags"},
	Route:        {"ID", "HostComputeEndpoints", "Setting", "SchemaVersion"},
}

func badJSON(format string, args ...any) error {
	return hresult.New(hresult.InvalidNetworkJSON, "Invalid JSON document string: %s", fmt.Sprintf(format, args...))
}

func parse(k Kind, settings string) (object, error) {
	o := object{}
	if err := json.Unmarshal([]byte(settings), &o); err != nil {
		return nil, badJSON("%v", err)
	}
	for p := range o {
		if !slices.Contains(properties[k], p) {
			return nil, badJSON("%s has no property '%s'", k, p)
		}
	}
	var v struct{ Major, Minor int }
	if err := json.Unmarshal(o["SchemaVersion"], &v); err != nil || v.Major != 2 {
		return nil, badJSON("%s has no SchemaVersion 2", k)
	}
	return o, nil
}

func (o object) set(property string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings, numbers and lists of these
	}
	o[property] = b
}

func (o object) text(property string) string {
	var s string
	_ = json.Unmarshal(o[property], &s) // one of another type is none
	return s
}

func parseQuery(query string) (map[string]string, error) {
	var q struct {
		SchemaVersion struct{ Major, Minor int }
		Flags         uint32
		Filter        string
	}
	if err := json.Unmarshal([]byte(query), &q); err != nil {
		return nil, badJSON("%v", err)
	}
	if q.SchemaVersion.Major != 2 {
		return nil, badJSON("a query without SchemaVersion 2")
	}
	filter := map[string]string{}
	if q.Filter != "" {
		if err := json.Unmarshal([]byte(q.Filter), &filter); err != nil {
			return nil, badJSON("the filter: %v", err)
		}
	}
	return filter, nil
}

func (o object) matches(filter map[string]string) bool {
	for property, want := range filter {
		if property == "VirtualNetwork" { // the filters know version 1's names
			property = "HostComputeNetwork"
		}
		if !strings.EqualFold(o.text(property), want) {
			return false
		}
	}
	return true
}

func (s *Service) newNetwork(o object) error {
	switch o.text("Type") {
	case "NAT", "Transparent", "L2Bridge", "L2Tunnel", "ICS", "Private", "Overlay":
	default:
		return hresult.New(hresult.InvalidNetworkType, "'%s' is no type of a network", o.text("Type"))
	}
	for _, k := range s.all(Network) {
		if k.text("Name") != "" && strings.EqualFold(k.text("Name"), o.text("Name")) {
			return hresult.New(hresult.NetworkExists, "a network '%s' exists", o.text("Name"))
		}
	}
	_, err := subnets(o)
	return err
}

type ipam struct {
	Type    string
	Subnets []struct {
		IpAddressPrefix string
		Policies        []json.RawMessage
		Routes          []struct {
			NextHop, DestinationPrefix string
			Metric                     uint16
		}
		Flags uint32
	}
}

// subnets are a network's, each with the addresses of its routers.
func subnets(network object) (map[netip.Prefix][]netip.Addr, error) {
	var list []ipam
	if raw, ok := network["Ipams"]; ok {
		if err := json.Unmarshal(raw, &list); err != nil {
			return nil, badJSON("Ipams: %v", err)
		}
	}
	all := map[netip.Prefix][]netip.Addr{}
	for _, i := range list {
		for _, sub := range i.Subnets {
			p, err := netip.ParsePrefix(sub.IpAddressPrefix)
			if err != nil {
				return nil, hresult.New(hresult.InvalidIP, "'%s' is no subnet", sub.IpAddressPrefix)
			}
			all[p.Masked()] = nil
			for _, r := range sub.Routes {
				if a, err := netip.ParseAddr(r.NextHop); err == nil {
					all[p.Masked()] = append(all[p.Masked()], a)
				}
			}
		}
	}
	return all, nil
}

type ipConfig struct {
	IpAddress    string
	PrefixLength uint8
}

func (s *Service) newEndpoint(client string, network uint64, o object) error {
	id, n, err := s.get(client, Network, network)
	if err != nil {
		return err
	}
	if given := o.text("HostComputeNetwork"); given != "" && !strings.EqualFold(given, id) {
		return hresult.New(hresult.InvalidEndpoint, "the endpoint is for network %s, not %s", given, id)
	}
	o.set("HostComputeNetwork", id)
	nets, err := subnets(n)
	if err != nil {
		return err
	}
	var configs []ipConfig
	if raw, ok := o["IpConfigurations"]; ok {
		if err := json.Unmarshal(raw, &configs); err != nil {
			return badJSON("IpConfigurations: %v", err)
		}
	}
	used := s.addresses(id)
	if len(configs) == 0 {
		for p, routers := range nets {
			if a, ok := free(p, routers, used); ok {
				configs = append(configs, ipConfig{a.String(), uint8(p.Bits())})
			}
		}
	} else if err := check(configs, nets, used); err != nil {
		return err
	}
	o.set("IpConfigurations", configs)
	if o.text("MacAddress") == "" {
		s.state.Serial++
		o.set("MacAddress", fmt.Sprintf("00-15-5D-%02X-%02X-%02X", byte(s.state.Serial>>16), byte(s.state.Serial>>8), byte(s.state.Serial)))
	}
	return s.checkPorts(o)
}

func (s *Service) addresses(network string) map[netip.Addr]bool {
	used := map[netip.Addr]bool{}
	for _, e := range s.all(Endpoint) {
		if !strings.EqualFold(e.text("HostComputeNetwork"), network) {
			continue
		}
		var configs []ipConfig
		_ = json.Unmarshal(e["IpConfigurations"], &configs) // the service wrote it
		for _, c := range configs {
			if a, err := netip.ParseAddr(c.IpAddress); err == nil {
				used[a] = true
			}
		}
	}
	return used
}

func free(p netip.Prefix, routers []netip.Addr, used map[netip.Addr]bool) (netip.Addr, bool) {
	for a := p.Addr().Next().Next(); p.Contains(a); a = a.Next() { // the first is the host's
		if !used[a] && !slices.Contains(routers, a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

func check(configs []ipConfig, nets map[netip.Prefix][]netip.Addr, used map[netip.Addr]bool) error {
	for _, c := range configs {
		a, err := netip.ParseAddr(c.IpAddress)
		if err != nil {
			return hresult.New(hresult.InvalidIP, "'%s' is no address", c.IpAddress)
		}
		inside := len(nets) == 0
		for p := range nets {
			inside = inside || p.Contains(a)
		}
		if !inside || used[a] {
			return hresult.New(hresult.InvalidIP, "%s is in no subnet of the network, or in use", a)
		}
	}
	return nil
}

type policy struct {
	Type     string
	Settings json.RawMessage
}

type mapping struct {
	Protocol     uint32
	InternalPort uint16
	ExternalPort uint16
	VIP          string
	Flags        uint32
}

// ports are an endpoint's port mappings.
func (o object) ports() ([]mapping, error) {
	var policies []policy
	if raw, ok := o["Policies"]; ok {
		if err := json.Unmarshal(raw, &policies); err != nil {
			return nil, badJSON("Policies: %v", err)
		}
	}
	var list []mapping
	for _, p := range policies {
		if p.Type == "" {
			return nil, hresult.New(hresult.InvalidPolicyType, "a policy without a type")
		}
		if p.Type != "PortMapping" {
			continue
		}
		var m mapping
		if err := json.Unmarshal(p.Settings, &m); err != nil {
			return nil, badJSON("PortMapping: %v", err)
		}
		if m.InternalPort == 0 || m.Protocol != 6 && m.Protocol != 17 {
			return nil, hresult.New(hresult.InvalidPolicy, "a port mapping to port %d of protocol %d", m.InternalPort, m.Protocol)
		}
		list = append(list, m)
	}
	return list, nil
}

func (s *Service) checkPorts(o object) error {
	mine, err := o.ports()
	if err != nil {
		return err
	}
	for _, e := range s.all(Endpoint) {
		theirs, _ := e.ports() // were checked when the endpoint was made
		for _, a := range mine {
			for _, b := range theirs {
				if a.ExternalPort != 0 && a.ExternalPort == b.ExternalPort && a.Protocol == b.Protocol && a.VIP == b.VIP && e.text("ID") != o.text("ID") {
					return hresult.New(hresult.PortExists, "port %d is mapped to endpoint %s", a.ExternalPort, e.text("ID"))
				}
			}
		}
	}
	return nil
}
