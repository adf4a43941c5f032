// Package child runs programs of system calls in children: what a process must do to itself between fork and exec, where no Go
// can run, written down beforehand as data.
//
// It owns Program, and Starter, which runs one. A starter is a small process beside this one, of which children are forked. It and
// they are C (starter.c): that hears a program from a socket and interprets it. The package never imports libcontainer or anything
// of ours, and knows nothing of containers. Without cgo it only says that it cannot.
//
// A child has next to nothing in its memory but its program, and only the files that it was given. Nobody without CAP_SYS_PTRACE
// can look into it. This process must be sealed against its children's children opening /proc/self/exe for writing: see Seal.
//
// What a crash of this process leaves: the starter ends; children that wait for us (Program.Wait) fail and exit; those that do
// not wait go on to the end of their program.
package child
