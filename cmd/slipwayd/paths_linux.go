package main

import "strings"

const (
	defaultConfigFile     = "/etc/slipway/config.toml"
	defaultRoot           = "/var/lib/slipway"
	defaultState          = "/run/slipway"
	defaultAddress        = "/run/slipway/slipway.sock"
	defaultRegistryConfig = "/etc/slipway/certs.d"
	defaultCNIConf        = "/etc/cni/net.d"
)

var defaultCNIBins = []string{"/opt/cni/bin", "/usr/lib/cni"}

// storageDrivers are the choices of [storage] driver, and storageText what each is.
var storageDrivers = []string{"auto", "overlay", "native"}

const storageText = `# overlay, native (plain copies, for where overlay cannot be), or auto: overlay when the kernel and the file system can.`

func cleanAddress(address string) string { return strings.TrimPrefix(address, "unix://") }
