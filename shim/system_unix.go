//go:build !windows

package shim

// foreignEvents is where third parties' shims send events: the Manager's own place for them.
func foreignEvents(_, own string) string { return own }

// hostRuntime is none: what containerd's clients ask for on this system is always built in.
const hostRuntime = ""
