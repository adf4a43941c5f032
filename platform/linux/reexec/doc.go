// Package reexec lets a program serve as the init of the containers it starts: libcontainer executes it anew as
// "PROGRAM init", inside the new namespaces. Importing the package is all there is to do, and only cmd/slipway-shim (and
// tests of platform/linux) do it, together with libcontainer/nsenter, the C part that runs before Go does, and
// cgroups/devices, which adds device rules to cgroups. It also keeps the main thread out of libcontainer's hands.
//
// It runs in an init() because nothing of the program's main may run in a container's init. That saves the initialisation
// of packages whose paths come later, but not of those that libcontainer itself needs and what sorts before them, protobuf
// among them: about 0.9 of 1.2 ms remain (GODEBUG=inittrace=1), of the 10 ms that a container's start takes. So keep out of
// cmd/slipway-shim what does much at package level.
package reexec
