// The functions without bodies in fork_linux.go are linked by name, for which the compiler wants a file like this one.
