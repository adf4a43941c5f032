package layer_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/slipwayd/slipway/storage/lazyfuse/cache"
	"github.com/slipwayd/slipway/storage/lazyfuse/layer"
)

// TestPlan fetches what is planned, in its order, and nothing of it twice.
func TestPlan(t *testing.T) {
	f := newFixture(t, cache.Options{}, true)
	ctx, big := context.Background(), f.find(t, "file6")
	nodes := []int{-1, f.Len(), 0, f.find(t, "file0"), big, f.find(t, "file3"), big}
	pieces := [][2]int64{{0, 9}, {0, 9}, {0, 9}, {0, 0}, {3 << 20, math.MaxInt64}, {-7, 4096}, {1 << 61, 1 << 62}}
	order, do := f.Plan(nodes, pieces)
	if len(order) == 0 || !slices.IsSorted(order) || order[0] != 4 {
		t.Fatalf("steps are for %v", order)
	}
	for i := range order {
		must(t, do(ctx, i))
	}
	d := f.Detail().(layer.Detail)
	if d.Demand != 0 || d.Profile == 0 || d.Profile > int64(len(f.blob.data)+len(order)) || f.blob.reads.Load() != int64(len(order)) {
		t.Errorf("%+v after %d reads for %d steps", d, f.blob.reads.Load(), len(order))
	}
	buf := make([]byte, 4096)
	_, err := f.ReadAt(ctx, nodes[5], buf, 0)
	if after := f.Detail().(layer.Detail); err != nil || after.Waited != 0 || after.Demand != 0 || string(buf) != string(f.files["file3"]) {
		t.Errorf("a reader still waits: %+v, %v", after, err)
	}
	order, do = f.Plan(nodes, pieces)
	before := f.blob.reads.Load()
	for i := range order {
		must(t, do(ctx, i))
	}
	if f.blob.reads.Load() != before {
		t.Errorf("what is here is fetched again")
	}
}

// TestPlanFaults has a step fetch again what was wrong, and fail when the registry does.
func TestPlanFaults(t *testing.T) {
	f := newFixture(t, cache.Options{}, true)
	nodes := []int{f.find(t, "file5")}
	_, do := f.Plan(nodes, [][2]int64{{0, 1 << 20}})
	f.blob.fail = func() error { return errors.New("away") }
	if err := do(context.Background(), 0); err == nil {
		t.Error("a step succeeds without a registry")
	}
	f.blob.fail = nil
	f.blob.corrupt.Store(1)
	_, do = f.Plan(nodes, [][2]int64{{0, 1 << 20}})
	must(t, do(context.Background(), 0))
	f.readAll(t, 64<<10)
}
