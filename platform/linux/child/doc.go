// Package child runs programs of system calls in forked children: what a process must do to itself between fork and exec,
// where no Go can run, written down beforehand as data.
//
// It owns Program and how one is run. A child is a copy of this process with one thread and no Go runtime: it interprets the
// program by raw system calls alone, without allocation, locks or stack growth, as package syscall's own fork does. It
// never imports libcontainer or anything of ours, and knows nothing of containers.
//
// A child's memory is a copy of ours until it execs. So a program's first steps should make it undumpable, and this process
// must be sealed against its children's children opening /proc/self/exe for writing: see Seal.
//
// What a crash of this process leaves: children that wait for it (Program.Wait) fail and exit; those that do not wait go on to
// the end of their program.
package child
