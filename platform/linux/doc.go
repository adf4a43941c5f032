// Package linux runs containers with libcontainer: the built-in platform.Executor of a Linux host.
//
// It owns a state directory below /run, one folder for each container (see record), the processes it started and their
// zombies, and every orphan that comes to this process, which New makes a subreaper. It is the only package that imports
// libcontainer's container code; it never imports the daemon, protobuf services or a storage driver. Whoever uses it must
// be able to act as the container's init when executed as "init": see package reexec.
//
// Plain containers, which most are, are set up without libcontainer's init: their first process is a child of this one, forked by
// a small starter, that runs a program of system calls (packages bringup and child), and so are processes executed in them. What is plain is
// decided by bringup.Plain; all else is libcontainer's, which is told of a plain container when it is needed there
// (container.libcontainer). Config.Libcontainer turns our own way off.
//
// Such a child has our privileges, and at first the host's files, until it executes the program. It cannot be looked into but with
// CAP_SYS_PTRACE: where somebody in the pid namespace that it joins may have that, libcontainer starts the process
// (bringup.PlainExec, container.traced).
//
// A container whose options name another OCI runtime (crun, youki, runsc, a runc by its path) is run by that one's command
// line, under the same state, watching and clean-up.
//
// A spec may ask for more than this process may give: without CAP_SYS_RESOURCE resource limits and oom_score_adj are cut to
// our own and the log says so. Where confinement is asked for that the build or kernel lacks (seccomp, AppArmor, SELinux),
// Create fails instead.
//
// What a crash leaves: running containers, which do not notice, and for a Create that was interrupted a cgroup, a mount
// and a folder that List names; Adopt finds both, and Delete of a container adopted in that half-made state removes them.
// What dies with the process: copies of output through pipes, and terminals of which nobody else keeps a duplicate for Attach (the
// kernel hangs up on their programs); files and fifos handed over go on working.
package linux
