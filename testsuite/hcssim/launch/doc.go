// Package launch starts the simulated containers' processes: ordinary processes of wine, each in a job of its own, with named
// pipes as streams whose other ends are given to the client, as the compute service does it.
//
// What is like a container is said by View: a process starts in the scratch's files, and paths of the container that its command
// names are turned into those where the simulator has them. Nothing else is isolated. Processes outlive the simulator; their
// children are ended with them only by the simulator that started them.
package launch
