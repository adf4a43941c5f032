// Package filter parses and matches containerd's filter language.
package filter

import "github.com/containerd/errdefs"

// Adaptor answers the value of a field path of one object, and whether the object has it.
type Adaptor func(path []string) (value string, present bool)

// Filter is a parsed list of filters; the zero Filter matches everything. It is safe for concurrent use.
type Filter struct{}

// Parse reads filters, any of which must match. None matches everything. InvalidArgument when one cannot be read.
func Parse(filters ...string) (Filter, error) { return Filter{}, errdefs.ErrNotImplemented }

func (f Filter) Match(a Adaptor) bool { return false }
