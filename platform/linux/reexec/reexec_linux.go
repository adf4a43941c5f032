//go:build cgo

package reexec

import (
	"os"

	"github.com/opencontainers/runc/libcontainer"
)

// The project has no init() wiring, with this one exception: libcontainer's contract is that nothing of the program runs
// before it, and main would come after the init of every package linked in.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		libcontainer.Init() // does not come back
	}
}
