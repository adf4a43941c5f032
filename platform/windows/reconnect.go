package windows

import (
	"fmt"

	"github.com/slipwayd/slipway/platform"
)

var _ platform.Reconnecter = (*process)(nil)

// Reconnect gives the program of a container that was adopted before its start what it is to read and write. One that runs has the pipes that the
// service gave to the executor which started it, and gives to us again.
func (p *process) Reconnect(streams platform.IO) error {
	p.starting.Lock()
	defer p.starting.Unlock()
	switch {
	case p.hasEnded():
		return nil
	case !p.Started() && p.id == "":
		return p.c.prepareInit(streams)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.handle == nil || p.streams != nil {
		return nil
	}
	p.streams = newStdio(streams, p.handle)
	if len(p.streams.outputs) == 0 && (streams.Stdout != nil || streams.Stderr != nil) {
		return fmt.Errorf("the service does not give out the pipes of %s again: what it writes is lost", p)
	}
	return nil
}
