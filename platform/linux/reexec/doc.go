// Package reexec lets a program serve as the init of the containers it starts: libcontainer executes it anew as
// "PROGRAM init", inside the new namespaces. Importing the package is all there is to do, and only cmd/slipway-shim (and
// tests of platform/linux) do it, together with libcontainer/nsenter, the C part that runs before Go does, and
// cgroups/devices, which adds device rules to cgroups.
//
// It imports nothing but libcontainer, so that the Go runtime, which initialises packages as soon as what they import is
// ready and in the order of their paths, comes to it before it comes to protobuf and the rest of a program.
package reexec
