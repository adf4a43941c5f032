package main

import "github.com/slipwayd/slipway/network/hns"

// leaveNetworks is engine.Parts.Leave: the command line makes namespaces for containers, and any client may remove these.
var leaveNetworks = hns.Release
