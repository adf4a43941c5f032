// Package hns attaches pods and containers of Windows to networks of the Host Network Service (HCN API version 2, by hcsshim's hcn): nat and
// l2bridge networks, namespaces, endpoints with port mappings and resolvers. It is for hosts without CNI; what package network does with
// CNI's plugins has the same form.
//
// It owns the networks that Ensure made and the endpoints that Attach made, whose names begin with "slipway-". It keeps no state:
// the service does, over restarts of the host. It imports package network for its vocabulary and nothing else of ours.
//
// What a crash leaves: a namespace whose id its caller chose before, an endpoint that is named after its pod. Detach and RemoveNamespace
// for the same undo them, whole or half.
package hns

import (
	"fmt"
	"net/netip"
	"regexp"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/network"
)

// Kinds of networks.
const (
	NAT      = "nat"      // an internal switch; the host translates addresses
	L2Bridge = "l2bridge" // the host's adapter; containers have addresses of its subnet
)

// Network is a network of the host.
type Network struct {
	Name    string
	Kind    string // NAT or L2Bridge
	Subnet  netip.Prefix
	Gateway netip.Addr
	Adapter string // of the host, such as Ethernet; for L2Bridge
	DNS     network.DNS
}

// Default is the network that Slipway makes where nobody configured one.
var Default = Network{Name: "slipway-nat", Kind: NAT, Subnet: netip.MustParsePrefix("172.31.224.0/20"), Gateway: netip.MustParseAddr("172.31.224.1")}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", fmt.Errorf(format, args...), errdefs.ErrInvalidArgument)
}

// maxName bounds names in bytes.
const maxName = 128

func (n Network) check() error {
	switch {
	case n.Name == "" || len(n.Name) > maxName:
		return invalid("a network needs a name of at most %d bytes, not %.200q", maxName, n.Name)
	case n.Kind != NAT && n.Kind != L2Bridge:
		return invalid("network %s: kind %q is neither %s nor %s", n.Name, n.Kind, NAT, L2Bridge)
	case !n.Subnet.IsValid() || n.Subnet != n.Subnet.Masked():
		return invalid("network %s needs a subnet such as 172.28.0.0/20, not %s", n.Name, n.Subnet)
	case !n.Gateway.IsValid() || !n.Subnet.Contains(n.Gateway):
		return invalid("network %s: gateway %s is not in %s", n.Name, n.Gateway, n.Subnet)
	case n.Kind == L2Bridge && n.Adapter == "":
		return invalid("network %s needs the name of the host's adapter", n.Name)
	}
	return nil
}

// namespaceID is an id of an object of the service, a GUID.
var namespaceID = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

func checkNamespace(id string) error {
	if !namespaceID.MatchString(id) {
		return invalid("a network namespace of Windows is named by a GUID, not by %.200q", id)
	}
	return nil
}

// Numbers of protocols (IANA), as port mappings have them.
var protocols = map[string]uint32{"": 6, "tcp": 6, "udp": 17}

// mapping is one port mapping in the service's terms.
type mapping struct {
	protocol           uint32
	internal, external uint16
	address            string // of the host; "" for all
}

// mappings are those ports of a pod that are ports of the host too.
func mappings(ports []network.Port) ([]mapping, error) {
	var all []mapping
	for _, p := range ports {
		if p.Host == 0 {
			continue
		}
		protocol, ok := protocols[p.Protocol]
		if !ok {
			return nil, invalid("port %d: the Host Network Service maps tcp and udp, not %q", p.Container, p.Protocol)
		}
		if p.Container < 1 || p.Container > 65535 || p.Host < 0 || p.Host > 65535 {
			return nil, invalid("port %d of the host cannot lead to port %d: both must be 1 to 65535", p.Host, p.Container)
		}
		m := mapping{protocol: protocol, internal: uint16(p.Container), external: uint16(p.Host)}
		if p.HostIP != "" {
			address, err := netip.ParseAddr(p.HostIP)
			if err != nil {
				return nil, invalid("port %d: %q is no address of the host", p.Host, p.HostIP)
			}
			if !address.IsUnspecified() {
				m.address = address.String()
			}
		}
		all = append(all, m)
	}
	return all, nil
}
