package keeper_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipwayd/slipway/storage/lazyfuse/server/keeper"
	"golang.org/x/sys/unix"
)

// TestServerKilled is criterion 19: the server is killed again and again while the whole tree is read; no read fails or
// differs.
func TestServerKilled(t *testing.T) {
	h := start(t)
	dir := randomTree(t, 600)
	want, err := hash(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	kills := 25
	if n, err := strconv.Atoi(os.Getenv("FUSE_KILLS")); err == nil { // the criterion says 100
		kills = n
	}
	var stop atomic.Bool
	var longest atomic.Int64
	readers := make(chan error, 3)
	for i := range cap(readers) {
		id := string(rune('a' + i))
		if err := h.Attach(ctx, id, dir); err != nil {
			t.Fatal(err)
		}
		go func() { readers <- readAgain(filepath.Join(h.mnt(), id), want, &stop, &longest) }()
	}
	seen := map[int]bool{}
	for i := range kills {
		pid := h.serverPID(t)
		if seen[pid] {
			t.Fatalf("server %d was killed and answers", pid)
		}
		seen[pid] = true
		if i%4 == 0 { // the kernel asks again for names and attributes that it does not use
			if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
				t.Log(err)
			}
		}
		h.kill(t, pid)
	}
	stop.Store(true)
	for range cap(readers) {
		if err := <-readers; err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d kills, reading the slowest file took %v", kills, time.Duration(longest.Load()))
	for _, l := range must(h.Layers(ctx))(t) {
		if l.Slot == 0 || l.Dir != dir {
			t.Errorf("after all kills: %+v", l)
		}
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// readAgain hashes a tree until it is told to stop.
func readAgain(dir, want string, stop *atomic.Bool, longest *atomic.Int64) error {
	for !stop.Load() {
		got, err := timedHash(dir, longest)
		if err != nil {
			return err
		}
		if got != want {
			return errors.New("the tree is another: " + got)
		}
	}
	return nil
}

// TestOpenFilesSurvive: descriptors of both kinds stay what they were through a take-over, and so do those that join them.
func TestOpenFilesSurvive(t *testing.T) {
	h := start(t)
	dir := randomTree(t, 60)
	if err := h.Attach(context.Background(), "l1", dir); err != nil {
		t.Fatal(err)
	}
	var held []*os.File
	open := func() {
		for _, p := range must(filepath.Glob(filepath.Join(h.mnt(), "l1/d*/e*/f*")))(t) {
			f, err := os.Open(p)
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, f)
		}
	}
	open()
	before := must(h.Layers(context.Background()))(t)[0]
	if before.OpenCached == 0 || before.OpenPassed == 0 {
		t.Fatalf("want descriptors of both kinds: %+v", before)
	}
	h.kill(t, h.serverPID(t))
	open()
	after := must(h.Layers(context.Background()))(t)[0]
	if after.OpenCached != 2*before.OpenCached || after.OpenPassed != 2*before.OpenPassed {
		t.Errorf("before %+v, after %+v", before, after)
	}
	h.kill(t, h.serverPID(t))
	for _, f := range held {
		compare(t, f, filepath.Join(dir, must(filepath.Rel(filepath.Join(h.mnt(), "l1"), f.Name()))(t)))
		f.Close()
	}
}

func compare(t *testing.T, f *os.File, path string) {
	t.Helper()
	want := must(os.ReadFile(path))(t)
	got := make([]byte, len(want)+1)
	n, _ := f.ReadAt(got, 0)
	if string(got[:n]) != string(want) {
		t.Errorf("%s has other content: %d bytes, want %d", f.Name(), n, len(want))
	}
}

// TestKeeperKilled: the server goes on without its keeper, and the next keeper takes the mount over while it is in use.
func TestKeeperKilled(t *testing.T) {
	h := start(t)
	dir := randomTree(t, 100)
	want, err := hash(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Attach(context.Background(), "l1", dir); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var longest atomic.Int64
	reader := make(chan error, 1)
	go func() { reader <- readAgain(filepath.Join(h.mnt(), "l1"), want, &stop, &longest) }()
	for range 10 {
		old, oldServer := h.keeperPID(t), h.serverPID(t)
		h.kill(t, old)
		h.ensure(t)
		if now := h.keeperPID(t); now == old || now == 0 {
			t.Fatalf("keeper %d after %d", now, old)
		}
		if h.serverPID(t) == oldServer {
			t.Fatal("the server is the old one, which nobody would start again")
		}
		h.kill(t, h.serverPID(t))
	}
	stop.Store(true)
	if err := <-reader; err != nil {
		t.Error(err)
	}
}

// TestAllKilled is criterion 20: with nobody left, what is not cached is ENOTCONN and never zeros; the next keeper mounts anew
// and serves the same layers.
func TestAllKilled(t *testing.T) {
	h := start(t)
	dir := randomTree(t, 40)
	if err := h.Attach(context.Background(), "l1", dir); err != nil {
		t.Fatal(err)
	}
	paths := must(filepath.Glob(filepath.Join(h.mnt(), "l1/d*/e*/f*")))(t)
	var held []*os.File
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		held = append(held, f)
	}
	server := h.serverPID(t)
	h.kill(t, h.keeperPID(t))
	h.kill(t, server)
	for _, f := range held {
		n, err := f.ReadAt(make([]byte, 4096), 0)
		if n > 0 {
			compare(t, f, filepath.Join(dir, must(filepath.Rel(filepath.Join(h.mnt(), "l1"), f.Name()))(t)))
		} else if st, _ := os.Stat(filepath.Join(dir, must(filepath.Rel(filepath.Join(h.mnt(), "l1"), f.Name()))(t))); st.Size() > 0 && !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("%s: read %d bytes, %v", f.Name(), n, err)
		}
	}
	if _, err := os.Stat(filepath.Join(h.mnt(), "l1")); !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("the dead mount: %v", err)
	}
	h.ensure(t)
	want := must(hash(dir))(t)
	if got, err := hash(filepath.Join(h.mnt(), "l1")); err != nil || got != want {
		t.Errorf("after mounting anew: %s, %v; want %s", got, err, want)
	}
}

// TestKeeperStops: a keeper that is asked to end leaves no mount and no server.
func TestKeeperStops(t *testing.T) {
	h := start(t)
	server, pid := h.serverPID(t), h.keeperPID(t)
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	h.gone(t, pid)
	h.gone(t, server)
	if entries, err := os.ReadDir(h.mnt()); err != nil || len(entries) != 0 {
		t.Errorf("the mount point: %v, %v", entries, err)
	}
	h.ensure(t)
}

// TestOneKeeper: two that start at once end up as one.
func TestOneKeeper(t *testing.T) {
	h := start(t)
	pid := h.keeperPID(t)
	h.ensure(t)
	if got := h.keeperPID(t); got != pid {
		t.Errorf("keeper %d, then %d", pid, got)
	}
	err := keeper.Run(context.Background(), keeper.Config{Mountpoint: h.mnt(), State: filepath.Join(h.dir, "state")})
	if err == nil {
		t.Error("a second keeper ran")
	}
}
