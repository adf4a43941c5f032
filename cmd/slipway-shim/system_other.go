//go:build !linux

package main

import (
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go/features"
)

func detached() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

func platformFeatures(f *features.Features) {}
