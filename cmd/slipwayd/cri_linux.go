package main

import (
	"github.com/slipwayd/slipway/engine/pods"
	"github.com/slipwayd/slipway/shim"
)

// builtinClasses are the runtime classes that need no configuration, and classesText says what they are.
var builtinClasses = []string{defaultClass}

const classesText = `"slipway" is the built-in executor`

// networkText is what more is to be said of the network here.
const networkText = ""

func (c criConfig) checkSystem() error { return nil }

// podsOfSystem has nothing to add: package pods knows Linux.
func podsOfSystem(config, *shim.Manager, *pods.Config) error { return nil }
