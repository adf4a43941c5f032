// Package filter parses and matches the filter language of containerd's API.
//
// A filter is a list of selectors, all of which must match; a list of filters matches when any of them does:
//
//	filter   = selector { "," selector }
//	selector = field { "." field } [ ( "==" | "!=" | "~=" ) value ]
//	field    = letters, digits and "_", or quoted by "…"
//	value    = anything without space and ",", or quoted by "…"; after ~= also by /…/ or |…|
//
// A selector without an operator asks whether the field is there. Quoted text takes Go's escapes. An empty filter matches
// everything. Filters come from clients: their size is bounded and regular expressions are RE2, which takes linear time.
//
// It imports nothing of Slipway.
package filter

import (
	"regexp"
	"slices"
)

// Adaptor answers the value of a field path of one object, and whether the object has it.
type Adaptor func(path []string) (value string, present bool)

// Filter is a parsed list of filters; the zero Filter matches everything. It is safe for concurrent use.
type Filter struct {
	any [][]selector
}

type operator uint8

const (
	present operator = iota
	equal
	notEqual
	matches
)

type selector struct {
	path  []string
	op    operator
	value string
	re    *regexp.Regexp // of matches
}

// Match says whether the object behind a passes the filter.
func (f Filter) Match(a Adaptor) bool {
	if len(f.any) == 0 {
		return true
	}
	return slices.ContainsFunc(f.any, func(all []selector) bool {
		return !slices.ContainsFunc(all, func(s selector) bool { return !s.match(a) })
	})
}

func (s selector) match(a Adaptor) bool {
	value, ok := a(s.path)
	switch s.op {
	case equal:
		return ok && value == s.value
	case notEqual:
		return value != s.value
	case matches:
		return s.re.MatchString(value)
	default:
		return ok
	}
}

// Pinned answers the only values that field can have in an object that matches, without duplicates; false when the filter does
// not tie it to any. A caller that finds objects by that field need not look at the others.
func (f Filter) Pinned(field string) ([]string, bool) {
	var values []string
	for _, all := range f.any {
		i := slices.IndexFunc(all, func(s selector) bool {
			return s.op == equal && len(s.path) == 1 && s.path[0] == field
		})
		if i < 0 {
			return nil, false
		}
		if !slices.Contains(values, all[i].value) {
			values = append(values, all[i].value)
		}
	}
	return values, len(values) > 0
}

// All says whether the filter matches everything.
func (f Filter) All() bool { return len(f.any) == 0 }
