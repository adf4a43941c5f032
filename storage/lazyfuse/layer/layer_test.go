package layer_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/slipwayd/slipway/storage/lazyfuse/cache"
	"github.com/slipwayd/slipway/storage/lazyfuse/fetch"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
	"github.com/slipwayd/slipway/storage/lazyfuse/layer"
)

// blob delivers from memory, with faults.
type blob struct {
	data    []byte
	reads   atomic.Int64
	corrupt atomic.Int64 // how many reads deliver something else
	fail    func() error
}

func (b *blob) ReadAt(_ context.Context, _ fetch.Class, p []byte, off int64) error {
	b.reads.Add(1)
	if b.fail != nil {
		if err := b.fail(); err != nil {
			return err
		}
	}
	copy(p, b.data[off:])
	if b.corrupt.Add(-1) >= 0 {
		p[len(p)/2] ^= 0x55
	}
	return nil
}

func (b *blob) Discard(off, length int64) {}

func (b *blob) Close() {}

// fixture is a layer with files of several sizes.
type fixture struct {
	*layer.Layer
	blob  *blob
	files map[string][]byte
}

func newFixture(t testing.TB, opts cache.Options, own bool) *fixture {
	t.Helper()
	return newFixtureOf(t, opts, own, 8<<20, 64<<20)
}

// newFixtureOf keeps so many bytes of units in memory and on disk.
func newFixtureOf(t testing.TB, opts cache.Options, own bool, memory, disk int64) *fixture {
	t.Helper()
	f := &fixture{files: map[string][]byte{}, blob: &blob{}}
	var packed bytes.Buffer
	zw := gzip.NewWriter(&packed)
	tw := tar.NewWriter(zw)
	r := rand.New(rand.NewPCG(3, 4))
	for i, size := range []int{0, 1, 511, 4096, 70_000, 1 << 20, 3<<20 + 3, 100, 200, 300} {
		name := fmt.Sprintf("file%d", i)
		data := make([]byte, size)
		for j := range data {
			data[j] = byte(r.Uint32N(64)) // compresses somewhat
		}
		f.files[name] = data
		must(t, tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(size)}))
		_, err := tw.Write(data)
		must(t, err)
	}
	must(t, errors.Join(tw.Close(), zw.Close()))
	f.blob.data = packed.Bytes()
	rec, err := index.NewRecorder(bytes.NewReader(f.blob.data), index.Limits{})
	must(t, err)
	defer rec.Close()
	_, err = io.Copy(rec, rec)
	must(t, err)
	x, err := rec.Finish()
	must(t, err)
	c, err := cache.Open(t.TempDir(), opts)
	must(t, err)
	units, err := layer.NewUnits(memory, t.TempDir(), disk)
	must(t, err)
	t.Cleanup(func() { must(t, units.Close()) })
	f.Layer = layer.New(layer.Config{Index: x, Digest: digest.FromBytes(x.Marshal()), Cache: c, Blob: f.blob, Units: units, Own: own})
	t.Cleanup(func() { must(t, errors.Join(f.Close(), c.Close())) })
	return f
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) find(t testing.TB, name string) int {
	t.Helper()
	i, ok := f.Find(name)
	if !ok {
		t.Fatalf("no %s", name)
	}
	return i
}

// readAll compares all files, read in pieces of n bytes.
func (f *fixture) readAll(t testing.TB, n int) {
	t.Helper()
	for name, want := range f.files {
		i := f.find(t, name)
		got, err := io.ReadAll(io.NewSectionReader(readerAt{f.Layer, i}, 0, int64(len(want))+10))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: %d bytes of %d, %v", name, len(got), len(want), err)
		}
		for off := 0; off < len(want); off += n {
			p := make([]byte, min(n, len(want)-off))
			if got, err := f.ReadAt(context.Background(), i, p, int64(off)); got != len(p) || err != nil || !bytes.Equal(p, want[off:off+len(p)]) {
				t.Fatalf("%s at %d: %d bytes, %v", name, off, got, err)
			}
		}
	}
}

type readerAt struct {
	l *layer.Layer
	i int
}

func (r readerAt) ReadAt(p []byte, off int64) (int, error) {
	return r.l.ReadAt(context.Background(), r.i, p, off)
}

func TestRead(t *testing.T) {
	for _, own := range []bool{false, true} {
		f := newFixture(t, cache.Options{Reserve: -1}, own)
		for _, name := range []string{"file5", "file1"} {
			if b, ok := f.Backing(f.find(t, name)); ok {
				b.Close()
				t.Errorf("%s is complete and was not read", name)
			}
		}
		f.readAll(t, 100_000)
		cold := f.blob.reads.Load()
		f.readAll(t, 30_000)
		if warm := f.blob.reads.Load() - cold; warm != 0 {
			t.Errorf("%d reads of the blob for what is in the cache", warm)
		}
		for name, want := range f.files {
			if len(want) == 0 {
				continue // nothing to read
			}
			b, ok := f.Backing(f.find(t, name))
			if !ok {
				t.Fatalf("%s is not complete", name)
			}
			if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, want) {
				t.Errorf("the backing of %s: %d bytes, %v", name, len(got), err)
			}
			b.Close()
		}
	}
}

func TestReadWithoutRoom(t *testing.T) {
	f := newFixture(t, cache.Options{Quota: 8192, Reserve: -1}, false)
	f.readAll(t, 300_000)
}

// TestFilesShareUnits reads small files in turn, with no memory for units: each unit is fetched once where the disk keeps all of them,
// and the files are right where it keeps one at a time.
func TestFilesShareUnits(t *testing.T) {
	for disk, most := range map[int64]int64{64 << 20: 3, 5 << 20: 1 << 20} {
		f := newFixtureOf(t, cache.Options{Quota: 1, Reserve: -1}, false, 0, disk)
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() {
				for _, name := range []string{"file1", "file7", "file2", "file8"} {
					p := make([]byte, len(f.files[name]))
					if _, err := f.ReadAt(context.Background(), f.find(t, name), p, 0); err != nil && err != io.EOF || !bytes.Equal(p, f.files[name]) {
						t.Errorf("%d bytes on disk: %s: %v", disk, name, err)
					}
				}
			})
		}
		all.Wait()
		if n := f.blob.reads.Load(); n > most {
			t.Errorf("%d bytes on disk: %d reads of the blob", disk, n)
		}
	}
}

// TestCorruptUnit is criterion 12.
func TestCorruptUnit(t *testing.T) {
	f := newFixture(t, cache.Options{Reserve: -1}, false)
	i := f.find(t, "file6")
	p := make([]byte, 1000)
	f.blob.corrupt.Store(1000)
	if n, err := f.ReadAt(context.Background(), i, p, 2<<20); n != 0 || !errors.Is(err, errdefs.ErrDataLoss) {
		t.Fatalf("read %d bytes, %v; want DataLoss", n, err)
	}
	if used := 1000 - f.blob.corrupt.Load(); used != 3 {
		t.Errorf("tried %d times, want 3", used)
	}
	f.blob.corrupt.Store(2) // the third try is right
	if n, err := f.ReadAt(context.Background(), i, p, 2<<20); n != 1000 || err != nil || !bytes.Equal(p, f.files["file6"][2<<20:2<<20+1000]) {
		t.Fatalf("after recovery: %d bytes, %v", n, err)
	}
	f.readAll(t, 1<<20)
}

// TestReadersOfOneUnit read it once, and one whose context ends takes none along.
func TestReadersOfOneUnit(t *testing.T) {
	f := newFixture(t, cache.Options{Reserve: -1}, false)
	i, want := f.find(t, "file4"), f.files["file4"]
	entered, leave := make(chan struct{}), make(chan struct{})
	gone, cancel := context.WithCancel(context.Background())
	var once sync.Once
	f.blob.fail = func() error {
		var err error
		once.Do(func() {
			close(entered)
			<-leave
			err = gone.Err()
		})
		return err
	}
	first := make(chan error, 1)
	go func() {
		_, err := f.ReadAt(gone, i, make([]byte, 10), 0)
		first <- err
	}()
	<-entered
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			p := make([]byte, 100)
			if _, err := f.ReadAt(context.Background(), i, p, int64(n)*100); err != nil || !bytes.Equal(p, want[n*100:n*100+100]) {
				t.Errorf("reader %d: %v", n, err)
			}
		})
	}
	cancel()
	close(leave)
	all.Wait()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the reader that was interrupted: %v", err)
	}
	if reads := f.blob.reads.Load(); reads != 2 {
		t.Errorf("%d reads of the blob, want 2: the interrupted one and another", reads)
	}
}

func TestReadOutside(t *testing.T) {
	f := newFixture(t, cache.Options{Reserve: -1}, false)
	i := f.find(t, "file2")
	if n, err := f.ReadAt(context.Background(), i, make([]byte, 10), 511); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if n, err := f.ReadAt(context.Background(), i, make([]byte, 10), 505); n != 6 || err != io.EOF {
		t.Errorf("across the end: %d, %v", n, err)
	}
	for _, c := range []struct {
		node int
		off  int64
	}{{-1, 0}, {1 << 20, 0}, {i, -1}} {
		if _, err := f.ReadAt(context.Background(), c.node, make([]byte, 1), c.off); !errors.Is(err, errdefs.ErrOutOfRange) {
			t.Errorf("node %d at %d: %v", c.node, c.off, err)
		}
	}
}
