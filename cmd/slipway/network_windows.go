package main

import (
	"context"
	"errors"
	"fmt"
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

type networkFlags struct {
	network string
	publish []string
}

func addNetworkFlags(f *pflag.FlagSet, r *runFlags) {
	f.StringArrayVarP(&r.publish, "publish", "p", nil, "[IP:]PORT:CONTAINERPORT[/udp] of the host that leads into the container; with --network nat")
}

// join makes a namespace with an endpoint on the nat network, which is made when the first container wants it and stays. It notes both in the labels, so that the daemon gives
// them back when the container is removed. After an error nothing is left.
func (r runFlags) join(ctx context.Context, labels map[string]string) ([]spec.Opt, error) {
	if r.network != hnsNetwork {
		if len(r.publish) > 0 {
			return nil, errors.New("--publish needs --network nat")
		}
		return nil, nil
	}
	ports, err := parsePorts(r.publish)
	if err != nil {
		return nil, err
	}
	service, err := hns.Open(hns.Default.Name)
	if err != nil {
		return nil, err
	}
	if err := service.Ensure(ctx, hns.Default); err != nil {
		return nil, err
	}
	id, err := guid.NewV4()
	if err != nil {
		return nil, err
	}
	labels[hns.LabelNamespace] = id.String()
	err = service.NewNamespace(ctx, id.String())
	if err == nil {
		_, err = service.Attach(ctx, network.Pod{ID: id.String(), NetNS: id.String(), Ports: ports})
	}
	if err != nil {
		return nil, errors.Join(err, hns.Release(context.WithoutCancel(ctx), labels))
	}
	return []spec.Opt{func(s *specs.Spec) error {
		if s.Windows == nil {
			return errors.New("--network nat is for containers of Windows")
		}
		s.Windows.Network = &specs.WindowsNetwork{NetworkNamespace: id.String()}
		return nil
	}}, nil
}

// leave undoes join for labels of which no container was made.
func leave(ctx context.Context, labels map[string]string) error { return hns.Release(ctx, labels) }

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
