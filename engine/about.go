package engine

import (
	"maps"
	"slices"
)

// About is what an engine was made of.
type About struct {
	Root, State   string
	DefaultDriver string
	Drivers       []string // snapshotter names, sorted
}

// About answers what the engine was made of.
func (e *Engine) About() About {
	return About{Root: e.root, State: e.state, DefaultDriver: e.defaultDriver, Drivers: slices.Sorted(maps.Keys(e.drivers))}
}
