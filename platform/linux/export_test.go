//go:build linux

package linux

import "github.com/slipwayd/slipway/platform"

// OwnInit says whether c's init was set up without libcontainer.
func OwnInit(c platform.Container) bool { return c.(*container).own != nil }

// NotPlain says why it would not be.
func NotPlain(e *Executor, s platform.Spec) string {
	spec, err := e.parseSpec(s)
	if err != nil {
		return err.Error()
	}
	config, err := libcontainerConfig(spec, s)
	if err != nil {
		return err.Error()
	}
	program, err := libcontainerProcess(spec.Process)
	if err != nil {
		return err.Error()
	}
	return e.notPlain(config, program, s)
}

// Traced says whether somebody may look into processes that join c.
func Traced(c platform.Container) bool {
	t := c.(*container)
	t.e.tracing.RLock()
	defer t.e.tracing.RUnlock()
	return t.traced()
}

const NoteFile = noteFile

var InheritedFiles = inheritedFiles
