package engine

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/testsuite"
)

// BenchmarkContainerRecords is what `run --rm` costs in records and layers: prepare, create, delete, remove. It should not
// depend on how many snapshots there are.
func BenchmarkContainerRecords(b *testing.B) {
	for _, others := range []int{0, 10000} {
		b.Run(fmt.Sprint(others, " snapshots"), func(b *testing.B) {
			e, snaps := benchEngine(b)
			for i := range others {
				err := e.db.Update(b.Context(), func(tx *metadata.Tx) error {
					_, _, err := snaps.records(tx).Prepare(fmt.Sprint("other-", i), "", storage.Active, nil)
					return err
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			for i := 0; b.Loop(); i++ {
				id := fmt.Sprint("c", i)
				if _, err := snaps.Prepare(b.Context(), id, "", nil); err != nil {
					b.Fatal(err)
				}
				_, err := e.CreateContainer(b.Context(), "ns", metadata.Container{
					ID: id, Snapshotter: "fake", SnapshotKey: id, Runtime: metadata.Runtime{Name: "r"}, Spec: &opaque.Any{TypeURL: "spec", Value: make([]byte, 10000)},
				})
				if err == nil {
					err = e.DeleteContainer(b.Context(), "ns", id)
				}
				if err == nil {
					err = snaps.Remove(b.Context(), id)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func benchEngine(b *testing.B) (*Engine, *Snapshots) {
	b.Helper()
	dir := b.TempDir()
	db, err := metadata.Open(filepath.Join(dir, "metadata.db"), metadata.Options{})
	if err != nil {
		b.Fatal(err)
	}
	e, err := New(Parts{
		DB: db, Content: testsuite.NewMemoryContent(), Drivers: map[string]storage.Driver{"fake": testsuite.NewFakeDriver()}, DefaultDriver: "fake",
		Tasks: newTaskTable(), Root: dir, State: dir, GCDelay: time.Hour,
	})
	if err == nil {
		err = e.Start(b.Context())
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close() })
	snaps, err := e.Snapshots(Scope{Namespace: "ns"}, "fake")
	if err != nil {
		b.Fatal(err)
	}
	return e, snaps
}
