package main

import (
	"fmt"

	"github.com/slipwayd/slipway/api/slipway"
	"golang.org/x/sys/windows"
)

// describeHost finds out what `slipway info` tells of the machine.
func describeHost() slipway.Host {
	v := windows.RtlGetVersion()
	return slipway.Host{Kernel: fmt.Sprintf("%d.%d.%d", v.MajorVersion, v.MinorVersion, v.BuildNumber)}
}
