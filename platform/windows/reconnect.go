package windows

import "github.com/slipwayd/slipway/platform"

var _ platform.Reconnecter = (*process)(nil)

// Reconnect gives the program of a container that was adopted before its start what it is to read and write. One that runs has the pipes that the
// service gave to the executor which started it: nothing is known to get them again.
func (p *process) Reconnect(streams platform.IO) error {
	p.starting.Lock()
	defer p.starting.Unlock()
	if p.id != "" || p.Started() || p.hasEnded() {
		return nil
	}
	return p.c.prepareInit(streams)
}
