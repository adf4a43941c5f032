package main

const (
	defaultConfigFile     = "/etc/slipway/config.toml"
	defaultRoot           = "/var/lib/slipway"
	defaultState          = "/run/slipway"
	defaultAddress        = "/run/slipway/slipway.sock"
	defaultRegistryConfig = "/etc/slipway/certs.d"
)
