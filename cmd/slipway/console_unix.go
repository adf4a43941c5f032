//go:build !windows

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// watchSize sends to c when the size of the terminal may have changed, until the answer is called.
func watchSize(_ *os.File, c chan os.Signal) (stop func()) {
	signal.Notify(c, syscall.SIGWINCH)
	return func() { signal.Stop(c) }
}

// rawOutput has nothing to set: a terminal understands what programs write to it.
func rawOutput(*os.File) (restore func(), err error) { return func() {}, nil }
