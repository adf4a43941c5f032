package main

import "os"

// notifyResize: a Windows console tells nobody when its size changes.
func notifyResize(chan<- os.Signal) {}
