// Package bringup writes down, as a program of system calls (package child), what makes a process the init of a container or
// one more process in it: namespaces, root file system, mounts, devices, user, capabilities, seccomp and the exec.
//
// It takes libcontainer's own configuration, and what comes out is meant to be the same as what libcontainer's init does,
// without that program: no exec of our own in between, and no Go in the child. What it does not do to the last detail Plain names,
// and then libcontainer is to be used. The order of steps is libcontainer's, for what depends on it is security.
//
// Paths inside the container belong to its image, which may be hostile. Targets of mounts are found below the root by
// openat2(2) and mounted on by descriptor. Nothing is looked up through magic links, and no descriptor of the
// host's is open when the container's program starts.
//
// AppArmor profiles are untried: no machine of ours had AppArmor. Tests look at the steps' order alone; a profile that cannot be
// named to the kernel fails the start.
//
// It starts nothing and keeps no state, but for compiled seccomp filters. It never imports the executor.
package bringup
