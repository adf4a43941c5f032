package stream

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
)

// TestGate: a wait ends when what it waits for comes, when the layer is wrong, when an attempt fails, with its context, and when nothing
// has happened for the deadline; but not while something does.
func TestGate(t *testing.T) {
	wrong, away := errors.New("wrong"), errors.New("away")
	for name, c := range map[string]struct {
		meanwhile func(g *gate, known *bool, cancel func())
		want      error
	}{
		"comes":    {func(g *gate, known *bool, _ func()) { g.change(func() { *known = true }) }, nil},
		"wrong":    {func(g *gate, _ *bool, _ func()) { g.fail(wrong) }, wrong},
		"away":     {func(g *gate, _ *bool, _ func()) { g.upset(away) }, away},
		"gives up": {func(_ *gate, _ *bool, cancel func()) { cancel() }, context.Canceled},
		"nothing":  {func(*gate, *bool, func()) {}, errdefs.ErrUnavailable},
		"slowly": {func(g *gate, known *bool, _ func()) {
			for range 5 {
				time.Sleep(50 * time.Second)
				g.change(func() {})
			}
			g.change(func() { *known = true })
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, known := newGate(time.Minute), false
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				done := make(chan error)
				go func() { done <- g.wait(ctx, func() bool { return known }) }()
				synctest.Wait()
				c.meanwhile(g, &known, cancel)
				if err := <-done; !errors.Is(err, c.want) || err == nil != (c.want == nil) {
					t.Errorf("%v, want %v", err, c.want)
				}
				if g.waiters != 0 {
					t.Errorf("%d still wait", g.waiters)
				}
			})
		})
	}
}

// TestGateAfterwards: a layer that is wrong stays so, and one that was only away is waited for again.
func TestGateAfterwards(t *testing.T) {
	g := newGate(time.Minute)
	g.upset(errors.New("away"))
	if err := g.wait(t.Context(), func() bool { return true }); err != nil {
		t.Errorf("after trouble: %v", err)
	}
	wrong := errors.New("wrong")
	g.fail(wrong)
	if err := g.wait(t.Context(), func() bool { return true }); !errors.Is(err, wrong) {
		t.Errorf("%v, want that it is wrong", err)
	}
}
