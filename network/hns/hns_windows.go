package hns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/Microsoft/hcsshim"
	"github.com/Microsoft/hcsshim/hcn"
	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/network"
)

// Service is the Host Network Service of this machine. Make it with Open.
type Service struct{ network string }

// Open answers the service, whose Attach puts pods into the network of that name. NotImplemented where Windows has no version 2 of it.
func Open(network string) (*Service, error) {
	if err := supported(); err != nil {
		return nil, fmt.Errorf("this Windows has no Host Network Service of version 2 (Windows Server 2019 has): %w: %w", err, errdefs.ErrNotImplemented)
	}
	return &Service{network: network}, nil
}

// supported asks before anything else does: hcsshim panics where a function is missing.
func supported() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	return hcn.V2ApiSupported()
}

// kind gives an error of the service its kind.
func kind(err error) error {
	switch {
	case err == nil:
		return nil
	case hcn.IsNotFoundError(err), hcn.IsElementNotFoundError(err):
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	case hcn.IsPortAlreadyExistsError(err):
		return fmt.Errorf("a port of the host is in use: %w: %w", err, errdefs.ErrAlreadyExists)
	}
	return err
}

// Ensure makes a network unless it is there. FailedPrecondition when one of that name is of another kind or subnet.
func (s *Service) Ensure(ctx context.Context, n Network) error {
	if err := n.check(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	have, err := hcn.GetNetworkByName(n.Name)
	if err == nil {
		return n.same(have)
	}
	if !errdefs.IsNotFound(kind(err)) {
		return fmt.Errorf("cannot look for network %s: %w", n.Name, kind(err))
	}
	doc := &hcn.HostComputeNetwork{
		Name: n.Name, Type: hcn.NAT, SchemaVersion: hcn.V2SchemaVersion(), Dns: resolver(n.DNS),
		Ipams: []hcn.Ipam{{Type: "Static", Subnets: []hcn.Subnet{{
			IpAddressPrefix: n.Subnet.String(), Routes: []hcn.Route{{NextHop: n.Gateway.String(), DestinationPrefix: anywhere(n.Gateway)}},
		}}}},
	}
	if n.Kind == L2Bridge {
		adapter, err := json.Marshal(hcn.NetAdapterNameNetworkPolicySetting{NetworkAdapterName: n.Adapter})
		if err != nil {
			return err
		}
		doc.Type, doc.Policies = hcn.L2Bridge, []hcn.NetworkPolicy{{Type: hcn.NetAdapterName, Settings: adapter}}
	}
	if _, err := doc.Create(); err != nil {
		return fmt.Errorf("cannot make network %s: %w", n.Name, kind(err))
	}
	return nil
}

// same says what of a network that is there is not as wanted.
func (n Network) same(have *hcn.HostComputeNetwork) error {
	if !strings.EqualFold(string(have.Type), n.Kind) {
		return fmt.Errorf("network %s is there and is %s, not %s: remove it, or choose another name: %w", n.Name, have.Type, n.Kind, errdefs.ErrFailedPrecondition)
	}
	for _, ipam := range have.Ipams {
		for _, subnet := range ipam.Subnets {
			if subnet.IpAddressPrefix == n.Subnet.String() {
				return nil
			}
		}
	}
	return fmt.Errorf("network %s is there without the subnet %s: remove it, or choose another name: %w", n.Name, n.Subnet, errdefs.ErrFailedPrecondition)
}

// RemoveNetwork removes a network with all endpoints on it; nil when there is none.
func (s *Service) RemoveNetwork(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n, err := hcn.GetNetworkByName(name)
	if err == nil {
		err = n.Delete()
	}
	if err = kind(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("cannot remove network %s: %w", name, err)
	}
	return nil
}

// NewNamespace makes a network namespace under an id that the caller chose, a GUID; nil when it is there. A container gets it as
// windows.network.networkNamespace of its runtime document.
func (s *Service) NewNamespace(ctx context.Context, id string) error {
	if err := checkNamespace(id); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := hcn.GetNamespaceByID(id); err == nil {
		return nil
	}
	n := hcn.HostComputeNamespace{Id: id, SchemaVersion: hcn.V2SchemaVersion()}
	if _, err := n.Create(); err != nil {
		return fmt.Errorf("cannot make network namespace %s: %w", id, kind(err))
	}
	return nil
}

// RemoveNamespace removes a network namespace; nil when there is none. Its endpoints are Detach's.
func (s *Service) RemoveNamespace(ctx context.Context, id string) error {
	if err := checkNamespace(id); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	n, err := hcn.GetNamespaceByID(id)
	if err == nil {
		err = n.Delete()
	}
	if err = kind(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("cannot remove network namespace %s: %w", id, err)
	}
	return nil
}

// HasNamespace tells whether there is a network namespace of that id.
func (s *Service) HasNamespace(ctx context.Context, id string) (bool, error) {
	if err := errors.Join(checkNamespace(id), ctx.Err()); err != nil {
		return false, err
	}
	_, err := hcn.GetNamespaceByID(id)
	if err = kind(err); errdefs.IsNotFound(err) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("cannot look for network namespace %s: %w", id, err)
	}
	return true, nil
}

// Traffic answers what went over each endpoint in a network namespace, under their ids. NotFound when there is no such namespace.
func (s *Service) Traffic(ctx context.Context, id string) ([]network.Interface, error) {
	if err := errors.Join(checkNamespace(id), ctx.Err()); err != nil {
		return nil, err
	}
	ids, err := hcn.GetNamespaceEndpointIds(id)
	if err != nil {
		return nil, fmt.Errorf("cannot list the endpoints in network namespace %s: %w", id, kind(err))
	}
	var all []network.Interface
	for _, endpoint := range ids {
		// Version 2 of the service's API has no counts; version 1 has them of the same endpoints.
		c, err := hcsshim.GetHNSEndpointStats(endpoint)
		if err != nil {
			return nil, fmt.Errorf("cannot read the traffic of endpoint %s: %w", endpoint, err)
		}
		all = append(all, network.Interface{
			Name: endpoint, RxBytes: c.BytesReceived, RxPackets: c.PacketsReceived, RxDropped: c.DroppedPacketsIncoming,
			TxBytes: c.BytesSent, TxPackets: c.PacketsSent, TxDropped: c.DroppedPacketsOutgoing,
		})
	}
	return all, nil
}

// Attach puts a pod into the network: an endpoint with its port mappings and resolver, in its namespace. FailedPrecondition when the network is
// not there. After an error it may be attached in part: Detach it.
func (s *Service) Attach(ctx context.Context, p network.Pod) (network.Attachment, error) {
	policies, err := portPolicies(p.Ports)
	if err = errors.Join(err, checkNamespace(p.NetNS), ctx.Err()); err != nil {
		return network.Attachment{}, err
	}
	n, err := hcn.GetNetworkByName(s.network)
	if err = kind(err); errdefs.IsNotFound(err) {
		return network.Attachment{}, fmt.Errorf("there is no network %s on this host: %w: %w", s.network, err, errdefs.ErrFailedPrecondition)
	} else if err != nil {
		return network.Attachment{}, fmt.Errorf("cannot find network %s: %w", s.network, err)
	}
	doc := &hcn.HostComputeEndpoint{
		Name: endpointName(p.ID), Policies: policies, Dns: resolver(p.DNS), Routes: defaultRoutes(n), SchemaVersion: hcn.V2SchemaVersion(),
	}
	if n.Type == hcn.L2Bridge {
		nat, err := outboundNAT(n)
		if err != nil {
			return network.Attachment{}, err
		}
		doc.Policies = append(doc.Policies, nat)
	}
	made, err := n.CreateEndpoint(doc)
	if err != nil {
		return network.Attachment{}, fmt.Errorf("cannot make the endpoint of pod %s on network %s: %w", p.ID, s.network, kind(err))
	}
	if err := hcn.AddNamespaceEndpoint(p.NetNS, made.Id); err != nil {
		return network.Attachment{}, fmt.Errorf("cannot put the endpoint of pod %s into its namespace: %w", p.ID, kind(err))
	}
	return attachment(made)
}

func attachment(e *hcn.HostComputeEndpoint) (a network.Attachment, err error) {
	for _, ip := range e.IpConfigurations {
		if _, err := netip.ParseAddr(ip.IpAddress); err != nil {
			return a, fmt.Errorf("endpoint %s has the address %.100q, which is none", e.Name, ip.IpAddress)
		}
		a.IPs = append(a.IPs, ip.IpAddress)
	}
	if len(a.IPs) == 0 {
		return a, fmt.Errorf("endpoint %s got no address", e.Name)
	}
	a.Result, err = json.Marshal(e)
	return a, err
}

// Detach takes a pod off its network. It may be repeated, and for a pod that never was attached it does nothing.
func (s *Service) Detach(ctx context.Context, p network.Pod) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e, err := hcn.GetEndpointByName(endpointName(p.ID))
	if err == nil {
		if e.HostComputeNamespace != "" {
			if derr := kind(hcn.RemoveNamespaceEndpoint(e.HostComputeNamespace, e.Id)); derr != nil && !errdefs.IsNotFound(derr) {
				return fmt.Errorf("cannot take the endpoint of pod %s out of its namespace: %w", p.ID, derr)
			}
		}
		err = e.Delete()
	}
	if err = kind(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("cannot remove the endpoint of pod %s: %w", p.ID, err)
	}
	return nil
}

// Status is nil when the network is there.
func (s *Service) Status(ctx context.Context) error {
	if _, err := hcn.GetNetworkByName(s.network); err != nil {
		return fmt.Errorf("network %s is not ready: %w: %w", s.network, kind(err), errdefs.ErrFailedPrecondition)
	}
	return ctx.Err()
}

func resolver(d network.DNS) hcn.Dns {
	dns := hcn.Dns{ServerList: d.Servers, Search: d.Searches, Options: d.Options}
	if len(d.Searches) > 0 {
		dns.Domain = d.Searches[0]
	}
	return dns
}

func portPolicies(ports []network.Port) ([]hcn.EndpointPolicy, error) {
	all, err := mappings(ports)
	if err != nil {
		return nil, err
	}
	var policies []hcn.EndpointPolicy
	for _, m := range all {
		settings, err := json.Marshal(hcn.PortMappingPolicySetting{Protocol: m.protocol, InternalPort: m.internal, ExternalPort: m.external, VIP: m.address})
		if err != nil {
			return nil, err
		}
		policies = append(policies, hcn.EndpointPolicy{Type: hcn.PortMapping, Settings: settings})
	}
	return policies, nil
}

// outboundNAT has what leaves a bridged network carry the host's address, but not what stays in it.
func outboundNAT(n *hcn.HostComputeNetwork) (hcn.EndpointPolicy, error) {
	var inside []string
	for _, ipam := range n.Ipams {
		for _, subnet := range ipam.Subnets {
			inside = append(inside, subnet.IpAddressPrefix)
		}
	}
	settings, err := json.Marshal(hcn.OutboundNatPolicySetting{Exceptions: inside})
	return hcn.EndpointPolicy{Type: hcn.OutBoundNAT, Settings: settings}, err
}

// defaultRoutes are those of a network that lead anywhere.
func defaultRoutes(n *hcn.HostComputeNetwork) []hcn.Route {
	var routes []hcn.Route
	for _, ipam := range n.Ipams {
		for _, subnet := range ipam.Subnets {
			for _, r := range subnet.Routes {
				if r.DestinationPrefix == "0.0.0.0/0" || r.DestinationPrefix == "::/0" {
					routes = append(routes, r)
				}
			}
		}
	}
	return routes
}

// anywhere is the destination of a default route.
func anywhere(gateway netip.Addr) string {
	if gateway.Is4() {
		return "0.0.0.0/0"
	}
	return "::/0"
}

// endpointName is what the endpoint of a pod is called.
func endpointName(pod string) string { return "slipway-" + pod }
