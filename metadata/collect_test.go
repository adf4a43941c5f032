package metadata

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/storage"
)

// world builds records from one-line descriptions, in namespace "ns" and with the driver "overlay".
type world struct {
	t  *testing.T
	db *DB
}

// add takes "kind name label=value…" where a label is short for containerd.io/gc.<label>, and a value for a digest is b:<n>.
func (w world) add(line string) {
	w.t.Helper()
	update(w.t, w.db, func(tx *Tx) error { return add(tx, line) })
}

func add(tx *Tx, line string) (err error) {
	words := strings.Fields(line)
	kind, name := words[0], words[1]
	labels, parent, lease := map[string]string{}, "", ""
	target := 0
	for _, word := range words[2:] {
		k, v, _ := strings.Cut(word, "=")
		v = value(v)
		switch k {
		case "on":
			parent = v
		case "lease":
			lease = v
		case "target":
			_, err = fmt.Sscan(v, &target)
		default:
			labels[labelCollect+k] = v
		}
	}
	tx = tx.WithLease(lease)
	switch kind {
	case "blob":
		_, e := tx.Blobs("ns").Create(Blob{Digest: digest.Digest(value(name)), Labels: labels})
		err = errors.Join(err, e)
	case "image":
		i := image(name, target)
		i.Labels = labels
		_, err = tx.Images("ns").Create(i)
	case "active":
		_, _, err = tx.Snapshots("ns", "overlay").Prepare(name, parent, storage.Active, labels)
	case "committed":
		graph := tx.Snapshots("ns", "overlay")
		_, _, e := graph.Prepare(name+"-key", parent, storage.Active, nil)
		_, err = graph.Commit(name, name+"-key", CommitOptions{Labels: labels})
		err = errors.Join(e, err)
	case "container":
		c := container(name)
		c.Labels, c.Snapshotter, c.SnapshotKey = labels, "overlay", parent
		_, err = tx.Containers("ns").Create(c)
	case "sandbox":
		_, err = tx.Sandboxes("ns").Create(Sandbox{ID: name, Labels: labels})
	case "lease":
		_, err = tx.Leases("ns").Create(Lease{ID: name, Labels: labels})
	case "ingest":
		_, err = tx.Ingests("ns").Create(Ingest{Ref: name})
	}
	return err
}

func value(v string) string {
	var n int
	if _, err := fmt.Sscanf(v, "b:%d", &n); err == nil {
		return dgst(n).String()
	}
	return v
}

// left lists what there is, as "kind name".
func (w world) left() (list []string) {
	view(w.t, w.db, func(tx *Tx) error {
		names := map[string]string{}
		for i := range 100 {
			names[dgst(i).String()] = fmt.Sprintf("b:%d", i)
		}
		for bucket, kind := range map[string]string{bucketBlobs: "blob", bucketImages: "image", bucketSnapshots: "snapshot", bucketLeases: "lease", bucketIngests: "ingest"} {
			if err := tx.scan(bucket, "", "", func(key string, _ []byte) (bool, error) {
				_, _, name := node{bucket, key}.split()
				if n, ok := names[name]; ok {
					name = n
				}
				list = append(list, kind+" "+name)
				return true, nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
	slices.Sort(list)
	return list
}

func TestCollect(t *testing.T) {
	past, future := "2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"
	tests := []struct {
		name string
		have string // lines as in add; those that must go begin with a minus
	}{
		{"images keep their content", `
			image i target=1
			blob b:1 ref.content.m.0=b:2 ref.content/x=b:3
			blob b:2
			blob b:3 ref.contentious=b:4
			-blob b:4`},
		{"expired images go", `
			-image i target=1 expire=` + past + `
			-blob b:1
			image j target=2 expire=` + future + `
			blob b:2`},
		{"expired images stay while something refers to them", `
			image i target=1 expire=` + past + `
			blob b:1
			image j target=2 ref.image.x=i
			blob b:2`},
		{"images keep snapshots", `
			image i target=1 ref.snapshot.overlay=top ref.snapshot.other/1=x
			committed base
			committed top on=base
			-committed side on=base`},
		{"chains of garbage go", `
			-committed a
			-committed b on=a
			-committed c on=b
			-active d on=c
			-active e on=c`},
		{"containers keep their snapshot", `
			committed base
			active top on=base
			container c on=top ref.content.x=b:1
			blob b:1`},
		{"sandboxes keep what their labels name", `
			sandbox s ref.content=b:1
			blob b:1`},
		{"roots", `
			blob b:1 root=2020 ref.content.0=b:2
			blob b:2
			committed s root=x ref.content.0=b:3
			blob b:3
			blob b:4 expire=` + future + `
			-blob b:5 expire=` + past},
		{"back references", `
			image i target=1
			blob b:1
			blob b:2 bref.image.x=i
			blob b:3 bref.content.x=b:2
			committed s bref.content.x=b:3
			blob b:4 bref.snapshot.overlay/x=s
			container c
			blob b:5 bref.container=c
			-blob b:6 bref.content=b:7
			-blob b:7`},
		{"conditions", `
			image i target=1 ref.snapshot.overlay=used
			committed used cond.value-usedat=` + time.Now().Add(-time.Hour).UTC().Format(time.RFC3339) + `
			blob b:2 cond.snapshot.overlay=usedat<2h|used ref.content=b:3
			blob b:3
			-blob b:4 cond.snapshot.overlay=usedat>2h|used
			blob b:5 cond.snapshot.overlay/x=usedat<1m,nonsense,usedat>2m|used
			-blob b:6 cond.snapshot.overlay=used
			-blob b:7 cond.snapshot.overlay=usedat<2h|unused
			-committed unused cond.value-usedat=` + time.Now().UTC().Format(time.RFC3339)},
		{"leases", `
			lease l
			blob b:1 lease=l ref.content.0=b:2
			blob b:2
			committed base
			active s on=base lease=l
			ingest in lease=l
			-lease old expire=` + past + `
			-blob b:3 lease=old
			lease new expire=` + future + `
			blob b:4 lease=new`},
		{"flat leases", `
			lease l flat=1
			blob b:1 lease=l ref.content.0=b:2
			-blob b:2
			committed base ref.content.0=b:3
			active s on=base lease=l
			-blob b:3 bref.content=b:1
			image i target=4 lease=l ref.content.0=b:5 expire=` + past + `
			blob b:4 ref.content.0=b:6
			-blob b:5
			-blob b:6`},
		{"flat and full", `
			lease l flat=1
			blob b:1 lease=l ref.content.0=b:2
			blob b:2
			image i target=1`},
		{"young ingests", `
			ingest in`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := world{t, open(t)}
			var want []string
			for line := range strings.Lines(test.have) {
				line, gone := strings.CutPrefix(strings.TrimSpace(line), "-")
				if line == "" {
					continue
				}
				w.add(line)
				kind, name, _ := strings.Cut(line, " ")
				name, _, _ = strings.Cut(name, " ")
				if kind == "active" || kind == "committed" {
					kind = "snapshot"
				}
				if !gone && kind != "container" && kind != "sandbox" {
					want = append(want, kind+" "+name)
				}
			}
			slices.Sort(want)
			got, err := w.db.Collect(t.Context(), CollectOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if left := w.left(); !slices.Equal(left, want) {
				t.Errorf("left %q, want %q", left, want)
			}
			again, err := w.db.Collect(t.Context(), CollectOptions{})
			if err != nil || len(again.Removed) > 0 {
				t.Errorf("a second collection removed %v, %v", again.Removed, err)
			}
			if len(got.Layers["overlay"])+len(got.Blobs)+len(got.Ingests) > len(got.Removed) {
				t.Errorf("more to delete than removed: %+v", got)
			}
		})
	}
}

func TestCollectAnswers(t *testing.T) {
	w := world{t, open(t)}
	var ids []string
	var ref string
	update(t, w.db, func(tx *Tx) error {
		graph := tx.Snapshots("ns", "overlay")
		ids = nil
		for i, parent := range []string{"", "0", "1"} {
			s, _, err := graph.Prepare("k", parent, storage.Active, nil)
			ids = append(ids, s.LayerID)
			if err != nil {
				return err
			}
			if _, err := graph.Commit(fmt.Sprint(i), "k", CommitOptions{}); err != nil {
				return err
			}
		}
		in, err := tx.Ingests("ns").Create(Ingest{Ref: "r"})
		ref = in.StoreRef
		_, err1 := tx.Blobs("ns").Create(blob(1))
		_, err2 := tx.Blobs("other").Create(blob(1))
		_, err3 := tx.Blobs("ns").Create(blob(2))
		_, err4 := tx.Blobs("other").Create(Blob{Digest: dgst(2), Labels: map[string]string{labelRoot: "x"}})
		return errors.Join(err, err1, err2, err3, err4)
	})
	got, err := w.db.Collect(t.Context(), CollectOptions{Now: time.Now().Add(25 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(ids)
	if !slices.Equal(got.Layers["overlay"], ids) {
		t.Errorf("layers %v, want %v: children first", got.Layers["overlay"], ids)
	}
	if !slices.Equal(got.Ingests, []string{ref}) {
		t.Errorf("ingests %v, want %v", got.Ingests, ref)
	}
	if !slices.Equal(got.Blobs, []digest.Digest{dgst(1)}) {
		t.Errorf("blobs %v, want the one that no namespace has any more", got.Blobs)
	}
	if len(got.Removed) != 7 || !slices.Contains(got.Removed, Removed{"ns", Resource{"snapshots/overlay", "2"}}) {
		t.Errorf("removed %v", got.Removed)
	}
	if got.Marked != 1 {
		t.Errorf("marked %d, want 1", got.Marked)
	}
}

// What becomes reachable between mark and removal survives, with all that it keeps.
func TestCollectRevives(t *testing.T) {
	have := strings.Split(`blob b:1 ref.content.0=b:2 ref.snapshot.overlay=top
blob b:2
committed base
committed top on=base
blob b:3 bref.content=b:2
blob b:4
lease old expire=2020-01-01T00:00:00Z
blob b:5 lease=old
lease flat flat=1
blob b:6 lease=flat ref.content.0=b:7
blob b:7 cond.snapshot.overlay=usedat<1h|base ref.content.0=b:8
blob b:8`, "\n")
	alive := []string{"blob b:6", "lease flat"}
	with := func(more ...string) []string {
		list := append(more, alive...)
		slices.Sort(list)
		return list
	}
	tests := []struct {
		name  string
		write func(tx *Tx) error
		want  []string
	}{
		{"nothing", func(tx *Tx) error { return nil }, with()},
		{"an image", func(tx *Tx) error { return add(tx, "image i target=1") },
			with("image i", "blob b:1", "blob b:2", "blob b:3", "snapshot base", "snapshot top")},
		{"a container", func(tx *Tx) error { return add(tx, "container c on=top") }, with("snapshot base", "snapshot top")},
		{"a child", func(tx *Tx) error { return add(tx, "active a on=base") }, with("snapshot a", "snapshot base")},
		{"a resource", func(tx *Tx) error {
			_, err := tx.Leases("ns").Create(Lease{ID: "l"})
			return errors.Join(err, tx.Leases("ns").AddResource("l", Resource{ResourceContent, dgst(2).String()}))
		}, with("lease l", "blob b:2", "blob b:3")},
		{"a blob that is there", func(tx *Tx) error {
			_, err := tx.Leases("ns").Create(Lease{ID: "l"})
			return errors.Join(err, tx.WithLease("l").Blobs("ns").Lease(dgst(4)))
		}, with("lease l", "blob b:4")},
		{"a label", func(tx *Tx) error {
			_, err := tx.Blobs("ns").Update(Blob{Digest: dgst(4), Labels: map[string]string{labelRef + "content": dgst(2).String()}}, "labels")
			return err
		}, with("blob b:4", "blob b:2", "blob b:3")},
		{"what was leased flat", func(tx *Tx) error { return add(tx, "image i target=6") }, with("image i", "blob b:7", "blob b:8")},
		{"a condition", func(tx *Tx) error {
			_, err := tx.Snapshots("ns", "overlay").Update(Snapshot{Key: "base", Labels: map[string]string{labelUsedAt: time.Now().Format(time.RFC3339)}})
			return err
		}, with("snapshot base", "blob b:7", "blob b:8")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := world{t, open(t)}
			for _, line := range have {
				w.add(line)
			}
			c := newCollection(w.db, time.Now())
			if err := c.begin(t.Context()); err != nil {
				t.Fatal(err)
			}
			update(t, w.db, test.write)
			if err := c.sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			left := slices.DeleteFunc(w.left(), func(s string) bool { return strings.HasPrefix(s, "container") })
			if !slices.Equal(left, test.want) {
				t.Errorf("left %q, want %q", left, test.want)
			}
		})
	}
}

// Clients that keep what they work with, by lease, image or container, never lose it to collections that run meanwhile.
func TestCollectConcurrently(t *testing.T) {
	db := open(t)
	stop := make(chan struct{})
	var clients, collector sync.WaitGroup
	removed := 0
	collector.Go(func() {
		for {
			got, err := db.Collect(context.Background(), CollectOptions{})
			is(t, "Collect", err, nil)
			removed += len(got.Removed)
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for id := range 4 {
		clients.Go(func() { client(t, db, id) })
	}
	clients.Wait()
	close(stop)
	collector.Wait()
	if _, err := db.Collect(t.Context(), CollectOptions{}); err != nil {
		t.Fatal(err)
	}
	if left := (world{t, db}).left(); len(left) > 0 {
		t.Errorf("left after everything was let go: %q", left)
	}
	if removed == 0 {
		t.Error("no collection that ran meanwhile removed anything")
	}
}

// client makes a lease, a tree of blobs and snapshots under it, an image of it, ends the lease, checks, and deletes the image.
func client(t *testing.T, db *DB, id int) {
	random := rand.New(rand.NewPCG(1, uint64(id)))
	for round := range 15 {
		name := fmt.Sprintf("c%d-%d", id, round)
		ctx := WithLease(context.Background(), name)
		config, manifest := id*1000+round*2+100, id*1000+round*2+101
		step := func(what string, ctx context.Context, fn func(*Tx) error) {
			is(t, name+" "+what, db.Update(ctx, fn), nil)
		}
		step("lease", context.Background(), func(tx *Tx) error { return add(tx, "lease "+name) })
		step("config", ctx, func(tx *Tx) error { return add(tx, fmt.Sprintf("blob b:%d lease=%s", config, name)) })
		step("manifest", ctx, func(tx *Tx) error {
			return add(tx, fmt.Sprintf("blob b:%d lease=%s ref.content.0=b:%d ref.snapshot.overlay=%s", manifest, name, config, name))
		})
		step("snapshot", ctx, func(tx *Tx) error {
			graph := tx.Snapshots("ns", "overlay")
			_, _, err := graph.Prepare(name+"-key", "", storage.Active, nil)
			return err
		})
		step("commit", ctx, func(tx *Tx) error {
			_, err := tx.Snapshots("ns", "overlay").Commit(name, name+"-key", CommitOptions{})
			return err
		})
		step("image", ctx, func(tx *Tx) error { return add(tx, fmt.Sprintf("image %s target=%d", name, manifest)) })
		step("end of lease", context.Background(), func(tx *Tx) error { return tx.Leases("ns").Delete(name) })
		for range random.IntN(5) {
			is(t, name+" check", db.View(context.Background(), func(tx *Tx) error {
				_, err1 := tx.Blobs("ns").Get(dgst(config))
				_, err2 := tx.Blobs("ns").Get(dgst(manifest))
				_, err3 := tx.Snapshots("ns", "overlay").Get(name)
				return errors.Join(err1, err2, err3)
			}), nil)
		}
		step("end of image", context.Background(), func(tx *Tx) error { return tx.Images("ns").Delete(name, "") })
	}
}
