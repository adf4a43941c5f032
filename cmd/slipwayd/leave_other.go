//go:build !windows

package main

import "context"

// leaveNetworks is engine.Parts.Leave: containers of other systems than Windows have no networks but those of their pods.
var leaveNetworks func(context.Context, map[string]string) error
