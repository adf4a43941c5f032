package engine

import (
	"context"
	"errors"
	"testing"

	"github.com/slipwayd/slipway/storage"
)

// idleDriver has nobody who waits for it.
type idleDriver struct{ storage.Lazy }

func (idleDriver) Busy(context.Context) bool { return false }

// TestFillYieldsToStarts: what comes in the background waits while a container starts, also between the reads of that.
func TestFillYieldsToStarts(t *testing.T) {
	e := &Engine{recorded: map[string]bool{"layer": true}}
	f := newFiller(e)
	ended, cancel := context.WithCancel(t.Context())
	cancel() // a pause ends at once, with this
	job := &fillJob{}
	if err := f.pace(idleDriver{}, job)(ended, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("during a start: %v, want a pause", err)
	}
	if next, wait := f.next(ended); next != nil || wait != startScan {
		t.Errorf("during a start the next is %v, after %v", next, wait)
	}
	job.hurry.Store(true)
	if err := f.pace(idleDriver{}, job)(ended, 1); err != nil {
		t.Errorf("somebody waits: %v, want no pause", err)
	}
	(&startRecorder{e: e, layers: []string{"layer"}}).drop()
	job.hurry.Store(false)
	if err := f.pace(idleDriver{}, job)(ended, 1); err != nil {
		t.Errorf("after the start: %v, want no pause", err)
	}
}
