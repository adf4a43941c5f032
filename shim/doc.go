// Package shim is the daemon's side of running containers: a Manager that starts shims, finds them again, replaces dead ones and speaks containerd's
// task API to them, whoever made them. Its own shim serves all containers of the host (package shim/server in the binary
// slipway-shim); any containerd-shim-*-v2 binary works as well.
//
// The Manager keeps a table of all tasks in memory, fed by the shims' events and compared with their answers whenever a
// shim is found again, so that State, Wait and List cost no call.
//
// It imports protobuf messages and ttrpc, never gRPC's server, engine or metadata.
//
// What a crash leaves: the shims and their containers, which run on, and a bundle STATE/tasks/NAMESPACE/ID for each task; Restore
// goes on from those, and removes the bundles that no shim knows. The death of the daemon nobody in a container notices.
//
// The death of a shim of ours its containers outlive too, with what they read and write: they have files and fifos of their own, and
// the other side of a terminal the daemon keeps as well (package fdstore), so that the next shim goes on where the dead one stopped and nothing
// is lost between. Only when daemon and shim die at once is a terminal lost: the kernel hangs up on its process (SIGHUP, which
// ends shells and most programs; one that ignores it reads an end of file and fails to write), and its exit is told as any other.
package shim
