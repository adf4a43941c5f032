//go:build linux && !cgo

package child

const linked = false
