package main

import (
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// defaultState is where shims of a stock containerd have their directories.
func defaultState() string { return filepath.Join(os.Getenv("ProgramData"), "slipway", "shim") }

// platformFeatures has nothing to tell: runtime-spec has no features of Windows.
func platformFeatures(*features.Features) {}
