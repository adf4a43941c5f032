package main

import (
	"fmt"

	runc "github.com/containerd/containerd/api/types/runc/options"
	"google.golang.org/protobuf/proto"

	"github.com/slipwayd/slipway/engine/pods"
	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/shim"
)

// builtinClasses are the runtime classes that need no configuration, and classesText says what they are.
var builtinClasses = []string{defaultClass}

const classesText = `"slipway" is the built-in executor`

// networkText is what more is to be said of the network here.
const networkText = ""

func (c criConfig) checkSystem() error { return nil }

// podsOfSystem has the runtimes that know of cgroup drivers use systemd's, if that is configured; what others do is configured with them.
func podsOfSystem(c config, _ *shim.Manager, conf *pods.Config) error {
	if !c.CRI.SystemdCgroup {
		return nil
	}
	value, err := proto.Marshal(&runc.Options{SystemdCgroup: true})
	if err != nil {
		return fmt.Errorf("cannot encode options of runtimes: %w", err)
	}
	for name, r := range conf.Runtimes {
		if r.Name == builtinRuntime || r.Name == "io.containerd.runc.v2" {
			r.Options = &opaque.Any{TypeURL: "containerd.runc.v1.Options", Value: value}
			conf.Runtimes[name] = r
		}
	}
	return nil
}
