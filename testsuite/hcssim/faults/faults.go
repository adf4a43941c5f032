// Package faults makes the simulator fail, stall or die where a test wants it: rules that each say which calls they are for, and
// which of these calls they act on. Rules are asked in the order in which they were set and kept in memory only: a simulator
// that is started again has none.
package faults

import (
	"fmt"
	"path"
	"strings"
	"sync"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
)

// A Rule acts on calls. The zero Times means once; -1 each time.
type Rule struct {
	Name  string       // to release or remove it
	Call  string       // a function's name or a pattern of path.Match, such as Hcs*Process
	Match string       // something that one of the arguments contains; "" for any
	Skip  int          // how many calls to let pass first
	Times int          // how many to act on then
	Fail  hresult.Code // what to answer instead; OK to go on
	After bool         // do what the call does, then act
	Stall bool         // wait for Release before anything else
	Die   bool         // end the simulator, as when the service crashes

	seen, hits int
	released   chan struct{}
}

// Set is the rules in force.
type Set struct {
	mu    sync.Mutex
	rules []*Rule
}

// Add puts a rule behind all others.
func (s *Set) Add(r Rule) error {
	if _, err := path.Match(r.Call, ""); err != nil || r.Call == "" {
		return fmt.Errorf("%q is no pattern of a call", r.Call)
	}
	r.seen, r.hits, r.released = 0, 0, make(chan struct{})
	if r.Times == 0 {
		r.Times = 1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = append(s.rules, &r)
	return nil
}

// Release lets all calls go on that rules of this name stall, and those that come; "" means every rule.
func (s *Set) Release(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rules {
		if name == "" || r.Name == name {
			r.release()
		}
	}
}

func (r *Rule) release() {
	select {
	case <-r.released:
	default:
		close(r.released)
	}
}

// Clear removes all rules; stalled calls go on.
func (s *Set) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rules {
		r.release()
	}
	s.rules = nil
}

// Hits says how often rules of this name have acted, stalled calls included.
func (s *Set) Hits(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.rules {
		if r.Name == name {
			n += r.hits
		}
	}
	return n
}

// An Action is what is to be done about one call.
type Action struct {
	Fail       hresult.Code
	After, Die bool
	Rule       string
}

// Next decides about a call with its arguments as text, and waits as long as it is to be stalled.
func (s *Set) Next(call string, args []string) Action {
	r := s.take(call, args)
	if r == nil {
		return Action{}
	}
	if r.Stall {
		<-r.released
	}
	return Action{Fail: r.Fail, After: r.After, Die: r.Die, Rule: r.Name}
}

func (s *Set) take(call string, args []string) *Rule {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rules {
		if ok, _ := path.Match(r.Call, call); !ok || !contains(args, r.Match) {
			continue
		}
		r.seen++
		if r.seen > r.Skip && (r.Times < 0 || r.hits < r.Times) {
			r.hits++
			return r
		}
	}
	return nil
}

func contains(args []string, part string) bool {
	if part == "" {
		return true
	}
	for _, a := range args {
		if strings.Contains(a, part) {
			return true
		}
	}
	return false
}
