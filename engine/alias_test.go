package engine

import (
	"maps"
	"slices"
	"testing"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/metadata"
)

// TestAlias: what a client makes under another name of a driver is the driver's, and lives as long as it would there.
func TestAlias(t *testing.T) {
	b := newBench(t)
	b.aliases = map[string]string{"stargz": "fake"}
	sc := Scope{Namespace: benchNS}
	s, err := b.Snapshots(sc, "stargz")
	if err != nil {
		t.Fatal(err)
	}
	commit := func(name string) {
		t.Helper()
		if _, err := s.Prepare(t.Context(), name+"-making", "", nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(t.Context(), name, name+"-making", nil, ""); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"labelled", "leased", "nobody's"} {
		commit(name)
	}
	desc, err := content.WriteBytes(t.Context(), b.Content(sc), "config", []byte("config"))
	if err != nil {
		t.Fatal(err)
	}
	blob := metadata.Blob{Digest: desc.Digest, Labels: map[string]string{"containerd.io/gc.ref.snapshot.stargz/0": "labelled", "containerd.io/gc.root": "yes"}}
	if _, err := b.Content(sc).Update(t.Context(), blob, "labels.containerd.io/gc.ref.snapshot.stargz/0", "labels.containerd.io/gc.root"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.CreateLease(t.Context(), benchNS, metadata.Lease{ID: "lease"}); err != nil {
		t.Fatal(err)
	}
	if err := b.AddLeaseResource(t.Context(), benchNS, "lease", metadata.Resource{Type: "snapshots/stargz", ID: "leased"}); err != nil {
		t.Fatal(err)
	}
	c, err := b.CreateContainer(t.Context(), benchNS, metadata.Container{ID: "c", Snapshotter: "stargz", SnapshotKey: "c-rw", Runtime: metadata.Runtime{Name: "runtime"},
		Spec: &opaque.Any{TypeURL: "spec", Value: []byte("{}")}})
	if err != nil || c.Snapshotter != "fake" {
		t.Fatalf("the container is on %q, %v", c.Snapshotter, err)
	}
	if _, err := s.Prepare(t.Context(), "c-rw", "labelled", nil); err != nil {
		t.Fatal(err)
	}
	if err := b.gc.scheduleOrWait(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	own, err := b.Snapshots(sc, "fake")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	err = own.Walk(t.Context(), func(page []metadata.Snapshot) error {
		for _, snapshot := range page {
			names = append(names, snapshot.Key)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	if want := []string{"c-rw", "labelled", "leased"}; !slices.Equal(names, want) {
		t.Errorf("after collection there are %q, want %q", names, want)
	}
	if all := b.Snapshotters(); !slices.ContainsFunc(all, func(s Snapshotter) bool { return s.Name == "stargz" && s.CanRebase }) {
		t.Errorf("clients are told of %v", all)
	}
}

func TestOwnLabels(t *testing.T) {
	e := &Engine{aliases: map[string]string{"stargz": "overlayfs"}}
	for _, c := range []struct{ give, want map[string]string }{
		{nil, nil},
		{map[string]string{"a": "b"}, map[string]string{"a": "b"}},
		{map[string]string{"containerd.io/gc.ref.snapshot.stargz": "x", "a": "b"}, map[string]string{"containerd.io/gc.ref.snapshot.overlayfs": "x", "a": "b"}},
		{map[string]string{"containerd.io/gc.ref.snapshot.stargzer/1": "x"}, map[string]string{"containerd.io/gc.ref.snapshot.stargzer/1": "x"}},
		{map[string]string{"containerd.io/gc.ref.snapshot.stargz/1": "x"}, map[string]string{"containerd.io/gc.ref.snapshot.overlayfs/1": "x"}},
	} {
		before := maps.Clone(c.give)
		if got := e.ownLabels(c.give); !maps.Equal(got, c.want) || !maps.Equal(before, c.give) {
			t.Errorf("%v becomes %v, want %v", before, got, c.want)
		}
	}
}
