//go:build !linux

package shim

func unmountBelow(dir string) error { return nil }
