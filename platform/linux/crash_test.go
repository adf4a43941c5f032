//go:build linux

package linux_test

const crashRoot = "SLIPWAY_CRASH_ROOT"

func crashChild() {}
