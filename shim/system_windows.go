package shim

// foreignEvents is where third parties' shims send events. They know names of pipes only, and one that holds over restarts of the daemon: its
// service of that kind.
func foreignEvents(daemon, _ string) string { return daemon + ".ttrpc" }

// hostRuntime is what containerd's clients ask for when nobody says otherwise.
const hostRuntime = "io.containerd.runhcs.v1"
