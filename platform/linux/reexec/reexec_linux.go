//go:build cgo

package reexec

import (
	"os"
	"runtime"

	"github.com/opencontainers/runc/libcontainer"
)

// The project has no init() wiring, with this one exception: libcontainer's contract is that nothing of the program runs
// before it, and main would come after the init of every package linked in.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		libcontainer.Init() // does not come back
	}
	// Otherwise this starts containers. For each one libcontainer sends a thread into the mount namespace and lets it end there.
	// The main thread cannot end: it would keep the namespace with all its mounts, and /proc/self would be about that. Locked
	// here, it runs main and no other goroutine.
	runtime.LockOSThread()
}
