package main

const (
	defaultConfigFile     = `C:\ProgramData\slipway\config.toml`
	defaultRoot           = `C:\ProgramData\slipway\root`
	defaultState          = `C:\ProgramData\slipway\state`
	defaultAddress        = `\\.\pipe\slipway`
	defaultRegistryConfig = `C:\ProgramData\slipway\certs.d`
)
