package main

import (
	"os"
	"path/filepath"
	"strings"
)

// programData is where Windows keeps what belongs to programs and no user.
func programData(name string) string {
	base := os.Getenv("ProgramData")
	if base == "" {
		base = `C:\ProgramData`
	}
	return filepath.Join(base, "Slipway", name)
}

var (
	defaultConfigFile     = programData("config.toml")
	defaultRoot           = programData("root")
	defaultState          = programData("state")
	defaultRegistryConfig = programData("certs.d")
	defaultCNIConf        = `C:\Program Files\containerd\cni\conf`
	defaultCNIBins        = []string{`C:\Program Files\containerd\cni\bin`}
)

const defaultAddress = `\\.\pipe\slipway`

// storageDrivers are the choices of [storage] driver, and storageText what each is.
var storageDrivers = []string{"auto", windowsName}

const storageText = `# windows, or auto, which is the same: layers are directories that Windows' container filter stacks.`

// cleanAddress understands pipes as Kubernetes writes them: npipe:////./pipe/NAME.
func cleanAddress(address string) string {
	return strings.ReplaceAll(strings.TrimPrefix(address, "npipe://"), "/", `\`)
}
