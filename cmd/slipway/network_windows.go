package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/Microsoft/go-winio/pkg/guid"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/pflag"

	"github.com/slipwayd/slipway/network"
	"github.com/slipwayd/slipway/network/hns"
	"github.com/slipwayd/slipway/spec"
)

const networkUsage = "none or nat (a network of the host, whose address the container carries outside)"

// hnsNetwork is the choice of --network that this command line makes itself.
const hnsNetwork = "nat"

// natNetwork is made when the first container wants it, and stays.
var natNetwork = hns.Network{Name: "slipway-nat", Kind: hns.NAT, Subnet: netip.MustParsePrefix("172.31.224.0/20"), Gateway: netip.MustParseAddr("172.31.224.1")}

// labelNamespace is the GUID of the network namespace that is a container's own, and the name of its endpoint.
const labelNamespace = "slipway.io/hns-namespace"

type networkFlags struct {
	network string
	publish []string
}

func addNetworkFlags(f *pflag.FlagSet, r *runFlags) {
	f.StringArrayVarP(&r.publish, "publish", "p", nil, "[IP:]PORT:CONTAINERPORT[/udp] of the host that leads into the container; with --network nat")
}

// join makes a namespace with an endpoint on the nat network and notes it in the labels, so that whoever removes the container can give it back:
// leave. After an error nothing is left.
func (r runFlags) join(ctx context.Context, labels map[string]string) ([]spec.Opt, error) {
	if r.network != hnsNetwork {
		if len(r.publish) > 0 {
			return nil, errors.New("--publish needs --network nat")
		}
		return nil, nil
	}
	if r.detach && r.rm {
		return nil, errors.New("--network nat with --detach and --rm would never give its address back: leave --rm out, and use slipway rm")
	}
	ports, err := parsePorts(r.publish)
	if err != nil {
		return nil, err
	}
	service, err := hns.Open(natNetwork.Name)
	if err != nil {
		return nil, err
	}
	if err := service.Ensure(ctx, natNetwork); err != nil {
		return nil, err
	}
	id, err := guid.NewV4()
	if err != nil {
		return nil, err
	}
	labels[labelNamespace] = id.String()
	err = service.NewNamespace(ctx, id.String())
	if err == nil {
		_, err = service.Attach(ctx, network.Pod{ID: id.String(), NetNS: id.String(), Ports: ports})
	}
	if err != nil {
		return nil, errors.Join(err, leave(context.WithoutCancel(ctx), labels))
	}
	return []spec.Opt{func(s *specs.Spec) error {
		if s.Windows == nil {
			return errors.New("--network nat is for containers of Windows")
		}
		s.Windows.Network = &specs.WindowsNetwork{NetworkNamespace: id.String()}
		return nil
	}}, nil
}

// leave undoes join for a container with these labels; nil for one that joined nothing.
func leave(ctx context.Context, labels map[string]string) error {
	id := labels[labelNamespace]
	if id == "" {
		return nil
	}
	service, err := hns.Open(natNetwork.Name)
	if err != nil {
		return err
	}
	return errors.Join(service.Detach(ctx, network.Pod{ID: id}), service.RemoveNamespace(ctx, id))
}

// parsePorts reads what --publish was given.
func parsePorts(all []string) ([]network.Port, error) {
	var ports []network.Port
	for _, text := range all {
		rest, protocol, _ := strings.Cut(text, "/")
		parts := strings.Split(rest, ":")
		p := network.Port{Protocol: protocol}
		var ok bool
		switch len(parts) {
		case 3:
			p.HostIP = parts[0]
			parts = parts[1:]
			fallthrough
		case 2:
			host, herr := strconv.ParseUint(parts[0], 10, 16)
			inside, ierr := strconv.ParseUint(parts[1], 10, 16)
			ok = herr == nil && ierr == nil && host > 0 && inside > 0
			p.Host, p.Container = int32(host), int32(inside)
		}
		if !ok {
			return nil, fmt.Errorf("--publish %q is not [IP:]PORT:CONTAINERPORT[/udp]", text)
		}
		ports = append(ports, p)
	}
	return ports, nil
}
