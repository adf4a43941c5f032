package faults

import (
	"testing"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
)

func TestRules(t *testing.T) {
	var s Set
	for _, r := range []Rule{
		{Name: "second", Call: "HcsStart*", Skip: 1, Times: 2, Fail: hresult.AccessDenied},
		{Name: "mine", Call: "HcsCreateProcess", Match: "cmd", Times: -1, Fail: hresult.Fail, After: true},
	} {
		if err := s.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []hresult.Code{hresult.OK, hresult.AccessDenied, hresult.AccessDenied, hresult.OK} {
		if a := s.Next("HcsStartComputeSystem", nil); a.Fail != want {
			t.Errorf("start %d: 0x%x, want 0x%x", i, uint32(a.Fail), uint32(want))
		}
	}
	if a := s.Next("HcsCreateProcess", []string{"ping"}); a.Fail != hresult.OK {
		t.Errorf("another's process fails")
	}
	if a := s.Next("HcsCreateProcess", []string{"cmd /c"}); a.Fail != hresult.Fail || !a.After || a.Rule != "mine" {
		t.Errorf("mine: %+v", a)
	}
	if s.Hits("second") != 2 || s.Hits("mine") != 1 || s.Hits("none") != 0 {
		t.Errorf("hits %d, %d", s.Hits("second"), s.Hits("mine"))
	}
	s.Clear()
	if a := s.Next("HcsCreateProcess", []string{"cmd /c"}); a.Fail != hresult.OK {
		t.Error("a rule that was removed")
	}
	for _, bad := range []string{"", "["} {
		if s.Add(Rule{Call: bad}) == nil {
			t.Errorf("%q is taken for a pattern", bad)
		}
	}
}

func TestStall(t *testing.T) {
	var s Set
	if err := s.Add(Rule{Name: "slow", Call: "*", Stall: true, Times: 2}); err != nil {
		t.Fatal(err)
	}
	done := make(chan Action)
	for range 2 {
		go func() { done <- s.Next("HcsCreateProcess", nil) }()
	}
	for s.Hits("slow") < 2 { // both wait
		select {
		case <-done:
			t.Fatal("a call that is to be stalled goes on")
		default:
		}
	}
	s.Release("other")
	s.Release("slow")
	s.Release("slow")
	<-done
	<-done
}
