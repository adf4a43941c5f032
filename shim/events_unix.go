//go:build !windows

package shim

// foreignEvents is where third parties' shims send events: the Manager's own place for them.
func foreignEvents(_, own string) string { return own }
