package main

import (
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/windows"
	"golang.org/x/term"
)

// lookAtSize is how often the console is asked for its size: it tells only those who read its input as events.
const lookAtSize = 250 * time.Millisecond

// watchSize sends to c when the size of the console has changed, until the answer is called.
func watchSize(console *os.File, c chan os.Signal) (stop func()) {
	quit := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		tick := time.NewTicker(lookAtSize)
		defer tick.Stop()
		width, height, _ := term.GetSize(int(console.Fd()))
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			w, h, err := term.GetSize(int(console.Fd()))
			if err != nil || w == width && h == height {
				continue
			}
			width, height = w, h
			select {
			case c <- syscall.Signal(0): // only that there is something to look at
			default:
			}
		}
	})
	return sync.OnceFunc(func() {
		close(quit)
		wait.Wait()
	})
}

// rawOutput has the console understand the control sequences that programs write, and leave line ends to them. A file that is none stays as
// it is.
func rawOutput(console *os.File) (restore func(), err error) {
	h := windows.Handle(console.Fd())
	var mode uint32
	if err := windows.GetConsoleMode(h, &mode); err != nil {
		return func() {}, nil
	}
	raw := mode | windows.ENABLE_PROCESSED_OUTPUT | windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING
	if err := windows.SetConsoleMode(h, raw|windows.DISABLE_NEWLINE_AUTO_RETURN); err != nil {
		if err := windows.SetConsoleMode(h, raw); err != nil { // a console before Windows Server 2019
			return nil, err
		}
	}
	return func() { _ = windows.SetConsoleMode(h, mode) }, nil
}
