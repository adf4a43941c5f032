package server

import (
	"slices"
	"testing"
)

// killable answers a function that makes opens as a server does which takes over from the one before.
func killable(t *testing.T, release func(int32)) func() *opens {
	t.Helper()
	f, err := NewSession()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return func() *opens {
		s, err := OpenSession(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return newOpens(s, release)
	}
}

// TestOpensAreRepeatable: a server killed between noting an open or a close and answering is asked again by the kernel.
func TestOpensAreRepeatable(t *testing.T) {
	var released []int32
	release := func(id int32) { released = append(released, id) }
	offer := func(id int32) func() (int32, bool) { return func() (int32, bool) { return id, id != 0 } }
	server := killable(t, release)
	o := server()
	first, err := o.open(7, 100, offer(3))
	if err != nil || !first.passed || first.backing != 3 {
		t.Fatalf("%+v, %v", first, err)
	}
	o = server()
	again, err := o.open(7, 100|uniqueResend, offer(4))
	if err != nil || again != first {
		t.Fatalf("asked again: %+v, %v; want %+v", again, err, first)
	}
	o.close(first.handle)
	if !slices.Equal(released, []int32{3}) {
		t.Fatalf("released %v", released)
	}
	second, err := o.open(8, 102, offer(0)) // takes the slot that is free now
	if err != nil || second.passed || second.handle == first.handle {
		t.Fatalf("%+v, %v", second, err)
	}
	o = server()
	o.close(first.handle) // asked again
	if cached, passed := o.of(func(uint64) bool { return true }); cached != 1 || passed != 0 {
		t.Errorf("%d cached, %d passed", cached, passed)
	}
	// An open that the server before had not come to.
	third, err := o.open(8, 104|uniqueResend, offer(5))
	if err != nil || third.passed {
		t.Errorf("%+v, %v: another descriptor of the file is cached", third, err)
	}
	o.close(second.handle)
	o.close(third.handle)
	if !slices.Equal(released, []int32{3}) {
		t.Errorf("released %v", released)
	}
}

// TestOpenersAgree: whoever decides first decides for all, and what the other one registered is given back.
func TestOpenersAgree(t *testing.T) {
	var released []int32
	o := killable(t, func(id int32) { released = append(released, id) })()
	var inner opened
	outer, err := o.open(1, 2, func() (int32, bool) {
		var err error
		if inner, err = o.open(1, 4, func() (int32, bool) { return 0, false }); err != nil {
			t.Error(err)
		}
		return 9, true
	})
	if err != nil || outer.passed || inner.passed || !slices.Equal(released, []int32{9}) {
		t.Errorf("outer %+v, inner %+v, %v; released %v", outer, inner, err, released)
	}
}

func TestForeignSession(t *testing.T) {
	f, err := NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("another version"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSession(f); err == nil {
		t.Error("it was used")
	}
	if err := f.Truncate(5); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSession(f); err == nil {
		t.Error("it was mapped")
	}
}
