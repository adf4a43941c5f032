//go:build !windows

package main

import (
	"context"

	"github.com/spf13/pflag"

	"github.com/slipwayd/slipway/spec"
)

const networkUsage = "none (loopback only) or host"

// hnsNetwork is Windows' alone.
const hnsNetwork = "none"

type networkFlags struct{ network string }

func addNetworkFlags(*pflag.FlagSet, *runFlags) {}

// join has no network to join: none and host are the document's matter.
func (r runFlags) join(context.Context, map[string]string) ([]spec.Opt, error) { return nil, nil }

func leave(context.Context, map[string]string) error { return nil }
