package metadata

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/slipwayd/slipway/storage"
)

// The numbers of issue 2: with these, create, list one page and delete may cost at most 1.5 times what they do when empty.
const (
	manyContainers = 1_000
	manySnapshots  = 10_000
	manyBlobs      = 100_000
)

// fill makes a realistic host: chains of ten snapshots, containers with a spec of 10 KB, blobs of which every tenth has labels.
func fill(b *testing.B, db *DB) {
	b.Helper()
	in := func(n int, fn func(tx *Tx, i int) error) {
		for done := 0; done < n; {
			begin := done
			update(b, db, func(tx *Tx) error {
				for done = begin; done < min(begin+5000, n); done++ {
					if err := fn(tx, done); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	in(manyBlobs, func(tx *Tx, i int) error {
		if i%100 == 0 {
			if _, err := tx.Images("default").Create(image(fmt.Sprintf("docker.io/library/i%d:latest", i), i)); err != nil {
				return err
			}
		}
		_, err := tx.Blobs("default").Create(labelledBlob(i))
		return err
	})
	in(manySnapshots, func(tx *Tx, i int) error { return commitOne(tx, i) })
	in(manyContainers, func(tx *Tx, i int) error {
		c := bigContainer(i)
		c.Snapshotter, c.SnapshotKey = "overlay", dgst(i).String()
		_, err := tx.Containers("default").Create(c)
		return err
	})
}

func labelledBlob(i int) Blob {
	r := blob(i)
	r.Labels = map[string]string{"containerd.io/distribution.source.docker.io": "library/busybox"}
	if i%10 == 0 {
		for j := 1; j < 10; j++ {
			r.Labels[fmt.Sprintf("containerd.io/gc.ref.content.l.%d", j)] = dgst(i + j).String()
		}
	}
	return r
}

func commitOne(tx *Tx, i int) error {
	parent := ""
	if i%10 > 0 {
		parent = dgst(i - 1).String()
	}
	graph := tx.Snapshots("default", "overlay")
	if _, _, err := graph.Prepare("extract", parent, storage.Active, nil); err != nil {
		return err
	}
	_, err := graph.Commit(dgst(i).String(), "extract", CommitOptions{})
	return err
}

func bigContainer(i int) Container {
	c := container(dgst(i).Encoded())
	c.Spec.Value = make([]byte, 10<<10)
	c.Labels = map[string]string{"io.kubernetes.pod.name": "web"}
	return c
}

// op is one kind of record with what a benchmark does to it; i is above what fill uses.
type op struct {
	name   string
	create func(tx *Tx, i int) error
	page   func(tx *Tx) (int, error)
	delete func(tx *Tx, i int) error
}

var ops = []op{
	{"container",
		func(tx *Tx, i int) error { _, err := tx.Containers("default").Create(bigContainer(i)); return err },
		func(tx *Tx) (int, error) { l, err := tx.Containers("default").Page("8", 100); return len(l), err },
		func(tx *Tx, i int) error { return tx.Containers("default").Delete(dgst(i).Encoded()) },
	},
	{"snapshot",
		func(tx *Tx, i int) error {
			_, _, err := tx.Snapshots("default", "overlay").Prepare(dgst(i).String(), dgst(baseImage).String(), storage.Active, nil)
			return err
		},
		func(tx *Tx) (int, error) {
			l, err := tx.Snapshots("default", "overlay").Page("sha256:8", 100)
			return len(l), err
		},
		func(tx *Tx, i int) error {
			_, err := tx.Snapshots("default", "overlay").Remove(dgst(i).String())
			return err
		},
	},
	{"blob",
		func(tx *Tx, i int) error { _, err := tx.Blobs("default").Create(labelledBlob(i)); return err },
		func(tx *Tx) (int, error) { l, err := tx.Blobs("default").Page("sha256:8", 100); return len(l), err },
		func(tx *Tx, i int) error { _, err := tx.Blobs("default").Delete(dgst(i)); return err },
	},
}

const (
	above     = 1_000_000
	baseImage = 2_000_000 // a committed snapshot in every file
)

// BenchmarkRecords compares operations on an empty file (with the 200 records that a page of 100 takes) and on a full one. Each
// operation is done with both in turn, so that what else the machine does meets both, and medians are compared.
func BenchmarkRecords(b *testing.B) {
	pair := []*DB{open(b), open(b)}
	fill(b, pair[1])
	for _, db := range pair {
		update(b, db, func(tx *Tx) error { return commitOne(tx, baseImage) })
	}
	both := func(b *testing.B, n int, fn func(*Tx, int) error) {
		b.StopTimer()
		defer b.StartTimer()
		for _, db := range pair {
			update(b, db, func(tx *Tx) error {
				for i := range n {
					if err := fn(tx, above+i); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	for _, o := range ops {
		b.Run(o.name+"/create", func(b *testing.B) {
			inTurn(b, pair, func(db *DB, i int) {
				update(b, db, func(tx *Tx) error { return o.create(tx, above+i) })
			})
			both(b, b.N, o.delete)
		})
		b.Run(o.name+"/delete", func(b *testing.B) {
			both(b, b.N, o.create)
			inTurn(b, pair, func(db *DB, i int) {
				update(b, db, func(tx *Tx) error { return o.delete(tx, above+i) })
			})
		})
		b.Run(o.name+"/page", func(b *testing.B) {
			both(b, 200, o.create)
			inTurn(b, pair, func(db *DB, _ int) {
				view(b, db, func(tx *Tx) error {
					n, err := o.page(tx)
					if n < 60 {
						b.Fatalf("a page of %d", n)
					}
					return err
				})
			})
			both(b, 200, o.delete)
		})
	}
}

// inTurn does b.N operations with each of pair and reports the medians of their times and the ratio of those.
func inTurn(b *testing.B, pair []*DB, do func(db *DB, i int)) {
	taken := make([][]time.Duration, len(pair))
	for i := range b.N {
		for j, db := range pair {
			begun := time.Now()
			do(db, i)
			taken[j] = append(taken[j], time.Since(begun))
		}
	}
	median := func(j int) float64 {
		slices.Sort(taken[j])
		return float64(taken[j][b.N/2].Nanoseconds()) / 1000
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(0), "empty-µs")
	b.ReportMetric(median(1), "full-µs")
	b.ReportMetric(median(1)/median(0), "full/empty")
}

// BenchmarkUpdateParallel shows what sharing commits is worth: time for one of many that start at once.
func BenchmarkUpdateParallel(b *testing.B) {
	for _, callers := range []int{1, 4, 16, 64} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			db := open(b)
			b.SetParallelism(callers)
			next := make(chan int)
			go func() {
				defer close(next)
				for i := range b.N {
					next <- i
				}
			}()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i := <-next
					update(b, db, func(tx *Tx) error { _, err := tx.Blobs("default").Create(blob(i)); return err })
				}
			})
		})
	}
}

// BenchmarkCollect finds nothing to remove in a full file, then removes most of it, and tells how long the writer was held.
func BenchmarkCollect(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		db := open(b)
		fill(b, db)
		update(b, db, func(tx *Tx) error {
			if _, err := tx.Leases("default").Create(Lease{ID: "all"}); err != nil {
				return err
			}
			list, err := tx.Blobs("default").List()
			for _, r := range list {
				err = errors.Join(err, tx.Leases("default").AddResource("all", Resource{ResourceContent, r.Digest.String()}))
			}
			return err
		})
		b.StartTimer()
		kept, err := db.Collect(b.Context(), CollectOptions{})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		update(b, db, func(tx *Tx) error { return tx.Leases("default").Delete("all") })
		b.StartTimer()
		gone, err := db.Collect(b.Context(), CollectOptions{})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(kept.Marked), "kept")
		b.ReportMetric(float64(kept.MarkTime)/float64(time.Millisecond), "mark-ms")
		b.ReportMetric(float64(len(gone.Removed)), "removed")
		b.ReportMetric(float64(gone.RemoveTime)/float64(time.Millisecond), "remove-ms")
		b.ReportMetric(float64(gone.LongestHold)/float64(time.Millisecond), "longest-hold-ms")
	}
}

// BenchmarkOpen opens a full file, which reads all of it.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "metadata.db")
	db, err := Open(path, Options{})
	if err != nil {
		b.Fatal(err)
	}
	fill(b, db)
	for b.Loop() {
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
		if db, err = Open(path, Options{}); err != nil {
			b.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
}
