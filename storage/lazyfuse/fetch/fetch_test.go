package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

const mib = 1 << 20

// source is a content.Fetcher over bytes in memory, in the bubble's time.
type source struct {
	data  []byte
	start time.Time
	// answer replaces a good answer when not nil; whole is what would be right.
	answer func(ctx context.Context, n int, whole []byte) (io.ReadCloser, error)

	mu    sync.Mutex
	calls []call
}

type call struct {
	off, length int64
	at          time.Duration
}

func (f *source) Fetch(ctx context.Context, _ ocispec.Descriptor, off, length int64) (io.ReadCloser, error) {
	f.mu.Lock()
	n := len(f.calls)
	f.calls = append(f.calls, call{off, length, time.Since(f.start)})
	answer := f.answer
	f.mu.Unlock()
	whole := f.data[off : off+length]
	if answer != nil {
		return answer(ctx, n, whole)
	}
	return good(whole), nil
}

func (f *source) set(answer func(context.Context, int, []byte) (io.ReadCloser, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

func (f *source) requests() []call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

func good(b []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(b)) }

// gate is a body that delivers what has been let through.
type gate struct {
	ctx  context.Context
	data []byte
	more chan int // how many bytes may pass
	open int
}

func newGate(ctx context.Context, data []byte) *gate {
	return &gate{ctx: ctx, data: data, more: make(chan int)}
}

func (g *gate) Read(p []byte) (int, error) {
	if len(g.data) == 0 {
		return 0, io.EOF
	}
	for g.open == 0 {
		select {
		case g.open = <-g.more:
		case <-g.ctx.Done():
			return 0, g.ctx.Err()
		}
	}
	n := copy(p[:min(len(p), g.open)], g.data)
	g.data, g.open = g.data[n:], g.open-n
	return n, nil
}

func (g *gate) Close() error { return nil }

func newSource(size int) *source {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data[:min(size, 99_991)])
	for n := 99_991; n < size; n *= 2 { // a period that no offset of the tests is a multiple of
		copy(data[n:], data[:n])
	}
	return &source{data: data, start: time.Now()}
}

func (f *source) desc() ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.FromBytes(f.data), Size: int64(len(f.data))}
}

// begin makes a scheduler and a blob that end with the test.
func begin(t testing.TB, f *source, opts Options) (*Scheduler, *Blob) {
	s := New(opts)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, s.Blob("registry", f.desc(), f)
}

func read(b *Blob, f *source, class Class, off, n int) error {
	p := make([]byte, n)
	if err := b.ReadAt(context.Background(), class, p, int64(off)); err != nil {
		return err
	}
	if !bytes.Equal(p, f.data[off:off+n]) {
		return fmt.Errorf("wrong bytes at %d", off)
	}
	return nil
}

func mustRead(t testing.TB, b *Blob, f *source, class Class, off, n int) {
	t.Helper()
	if err := read(b, f, class, off, n); err != nil {
		t.Fatal(err)
	}
}

func TestRead(t *testing.T) { synctest.Test(t, testRead) }

func testRead(t *testing.T) {
	f := newSource(3*mib + 1000)
	s, b := begin(t, f, Options{})
	for _, r := range []struct{ off, n, requests int }{
		{0, 10, 1},
		{500, mib - 500, 1},             // there already
		{3*mib + 999, 1, 2},             // the end
		{3 * mib, 999, 3},               // in front of what is there
		{100, 3*mib + 900, 5},           // across all of it
		{0, 3*mib + 1000, 5},            // all there
		{3*mib + 1000, 0, 5}, {0, 0, 5}, // nothing
	} {
		mustRead(t, b, f, Foreground, r.off, r.n)
		if got := f.requests(); len(got) > r.requests {
			t.Errorf("read %d at %d: %d requests, want %d: %v", r.n, r.off, len(got), r.requests, got)
		}
	}
	for _, r := range []struct{ off, n int }{{-1, 1}, {0, 3*mib + 1001}, {3*mib + 1000, 1}, {1 << 62, 1}} {
		if err := b.ReadAt(t.Context(), Foreground, make([]byte, r.n), int64(r.off)); !errdefs.IsOutOfRange(err) {
			t.Errorf("read %d at %d: %v", r.n, r.off, err)
		}
	}
	synctest.Wait()
	if st := s.Stats(); st.Demand.Bytes != int64(len(f.data)) || st.Demand.Requests != int64(len(f.requests())) || st.Queued+st.InFlight != 0 {
		t.Errorf("%+v", st)
	}
}

// TestGrowth reads in order: ranges become larger, and stay small for reads here and there.
func TestGrowth(t *testing.T) { synctest.Test(t, testGrowth) }

func testGrowth(t *testing.T) {
	f := newSource(64 * mib)
	_, b := begin(t, f, Options{})
	sizes := func() (sizes []int64) {
		synctest.Wait()
		for _, c := range f.requests() {
			sizes = append(sizes, c.length/mib)
		}
		slices.Sort(sizes)
		return sizes
	}
	for off := 0; off < 31*mib; off += mib / 2 {
		mustRead(t, b, f, Foreground, off, mib/2)
	}
	if got := fmt.Sprint(sizes()); got != "[1 2 4 4 8 8 8 8]" {
		t.Errorf("in order: %s", got)
	}
	for _, at := range []int{60, 55, 50} {
		mustRead(t, b, f, Foreground, at*mib, 100)
	}
	if got := fmt.Sprint(sizes()); got != "[1 1 1 1 2 4 4 8 8 8 8]" {
		t.Errorf("here and there: %s", got)
	}
}

// TestJoin has many readers of the same bytes: one GET, whose bytes they get as they come.
func TestJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newSource(8 * mib)
		var g *gate
		f.set(func(ctx context.Context, _ int, whole []byte) (io.ReadCloser, error) {
			g = newGate(ctx, whole)
			return g, nil
		})
		s, b := begin(t, f, Options{MinRange: 8 * mib})
		var background, foreground errgroup.Group
		background.Go(func() error { return read(b, f, Background, 0, 8*mib) })
		synctest.Wait()
		for i := range 10 {
			foreground.Go(func() error { return read(b, f, Foreground, mib+i, 1000) })
		}
		synctest.Wait()
		g.more <- mib + 2000
		if err := foreground.Wait(); err != nil { // although the GET is not over
			t.Fatal(err)
		}
		if st := s.Stats(); st.InFlight != 1 || st.Background.Requests != 1 || st.Demand.Requests != 0 || st.Demand.Served != 10_000 {
			t.Errorf("%+v", st)
		}
		g.more <- 8 * mib
		if err := background.Wait(); err != nil {
			t.Fatal(err)
		}
		if n := len(f.requests()); n != 1 {
			t.Errorf("%d GETs", n)
		}
	})
}

// TestOrder lets one GET at a time pass: the more urgent go first, whatever came first.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newSource(32 * mib)
		first := make(chan struct{})
		f.set(func(_ context.Context, n int, whole []byte) (io.ReadCloser, error) {
			if n == 0 {
				<-first
			}
			return good(whole), nil
		})
		_, b := begin(t, f, Options{Parallel: 1})
		var readers errgroup.Group
		for i, class := range []Class{Foreground, Background, Profile, Foreground, Background, Profile, Foreground} {
			readers.Go(func() error { return read(b, f, class, i*4*mib, 10) })
			synctest.Wait()
		}
		readers.Go(func() error { return read(b, f, Foreground, 4*4*mib, 10) }) // lifts the second of the background
		synctest.Wait()
		close(first)
		if err := readers.Wait(); err != nil {
			t.Fatal(err)
		}
		var order []int64
		for _, c := range f.requests() {
			order = append(order, c.off/(4*mib))
		}
		if got := fmt.Sprint(order); got != "[0 3 4 6 2 5 1]" {
			t.Errorf("order %s", got)
		}
	})
}

// TestSlowed has the background under way while somebody waits: it slows down, is not broken off, and goes on at full speed.
func TestSlowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newSource(32 * mib)
		begun, end := make(chan struct{}), make(chan struct{})
		f.set(func(_ context.Context, n int, whole []byte) (io.ReadCloser, error) {
			if n == 0 {
				close(begun)
				<-end
				return good(whole), nil
			}
			return good(whole), nil
		})
		s, b := begin(t, f, Options{MinRange: 8 * mib, Memory: 64 * mib})
		var waiting, background errgroup.Group
		waiting.Go(func() error { return read(b, f, Foreground, 0, 10) })
		<-begun
		background.Go(func() error { return read(b, f, Background, 16*mib, 8*mib) })
		background.Go(func() error { return read(b, f, Background, 24*mib, 8*mib) })
		time.Sleep(time.Second + trickle/2)
		st := s.Stats()
		if st.Background.Bytes != int64(time.Second/trickle)*blockSize || st.Background.Requests != 1 {
			t.Errorf("slowed to %d bytes a second in %d GETs", st.Background.Bytes, st.Background.Requests)
		}
		before := time.Now()
		close(end)
		if err := errors.Join(waiting.Wait(), background.Wait()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(before); d != 0 {
			t.Errorf("the background took %v after that", d)
		}
		if n := len(f.requests()); n != 3 {
			t.Errorf("%d GETs", n)
		}
	})
}

// TestTails has many GETs on their way that have delivered what was wanted: the next reader does not wait for their ends.
func TestTails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newSource(32 * mib)
		var gates []*gate
		f.set(func(ctx context.Context, _ int, whole []byte) (io.ReadCloser, error) {
			g := newGate(ctx, whole)
			g.open = 4096
			gates = append(gates, g)
			return g, nil
		})
		s, b := begin(t, f, Options{Parallel: 2})
		for i := range 8 {
			mustRead(t, b, f, Foreground, i*2*mib, 4096)
		}
		if st := s.Stats(); st.InFlight != 8 || st.Demand.Requests != 8 {
			t.Errorf("%+v", st)
		}
		// There is a bound to that, and to those who wait too.
		var late errgroup.Group
		late.Go(func() error { return read(b, f, Foreground, 30*mib, 4096) })
		synctest.Wait()
		if st := s.Stats(); st.InFlight != 8 || st.Queued != 1 {
			t.Errorf("%+v", st)
		}
		gates[3].more <- mib
		if err := late.Wait(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestCancel: a reader who goes away does not break its GET off, and what nobody waits for is not begun.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newSource(8 * mib)
		var g *gate
		f.set(func(ctx context.Context, _ int, whole []byte) (io.ReadCloser, error) {
			g = newGate(ctx, whole)
			return g, nil
		})
		s, b := begin(t, f, Options{Parallel: 1})
		ctx, cancel := context.WithCancel(t.Context())
		var readers errgroup.Group
		for i := range 2 {
			readers.Go(func() error {
				if err := b.ReadAt(ctx, Foreground, make([]byte, 10), int64(i)*4*mib); !errors.Is(err, context.Canceled) {
					return fmt.Errorf("reader %d: %v", i, err)
				}
				return nil
			})
			synctest.Wait()
		}
		cancel()
		if err := readers.Wait(); err != nil {
			t.Fatal(err)
		}
		if st := s.Stats(); st.InFlight != 1 || st.Queued != 0 {
			t.Errorf("%+v", st)
		}
		g.more <- mib
		synctest.Wait()
		mustRead(t, b, f, Foreground, 0, mib) // it has come
		if n := len(f.requests()); n != 1 {
			t.Errorf("%d GETs", n)
		}
	})
}

// TestMemory reads more than fits from all sides.
func TestMemory(t *testing.T) { synctest.Test(t, testMemory) }

func testMemory(t *testing.T) {
	f := newSource(64 * mib)
	const limit = 4 * mib
	s, b := begin(t, f, Options{Memory: limit})
	f.set(func(_ context.Context, _ int, whole []byte) (io.ReadCloser, error) {
		if st := s.Stats(); st.Memory > limit {
			t.Errorf("%d bytes of memory", st.Memory)
		}
		return good(whole), nil
	})
	var readers errgroup.Group
	for i := range 32 {
		readers.Go(func() error {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			for range 10 {
				n := 1 + r.IntN(mib)
				if err := read(b, f, Class(i)%classes, r.IntN(len(f.data)-n), n); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := readers.Wait(); err != nil {
		t.Fatal(err)
	}
	mustRead(t, b, f, Foreground, 0, 16*mib) // at once more than fits
	other := s.Blob("other", f.desc(), f)
	mustRead(t, other, f, Background, 0, 10)
	b.Close()
	other.Close()
	synctest.Wait()
	if st := s.Stats(); st.Memory != 0 || len(s.kept) != 0 {
		t.Errorf("%+v after closing, %d kept", st, len(s.kept))
	}
}

// TestClose ends readers that wait, in all states.
// TestForget: what is kept for the next read is not kept for ever.
func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newSource(16 * mib)
		s, b := begin(t, f, Options{})
		for i := range 8 {
			mustRead(t, b, f, Foreground, i*2*mib, 10)
			time.Sleep(keepTime / 4)
		}
		synctest.Wait()
		if st := s.Stats(); st.Memory != 3*mib {
			t.Errorf("%d bytes are kept, want those of the last %v", st.Memory, keepTime)
		}
		before := len(f.requests())
		mustRead(t, b, f, Foreground, 14*mib, 10)
		time.Sleep(keepTime)
		synctest.Wait()
		if st := s.Stats(); st.Memory != 0 || len(f.requests()) != before {
			t.Errorf("%d bytes are kept at last, after %d requests more", st.Memory, len(f.requests())-before)
		}
		mustRead(t, b, f, Foreground, 14*mib, 10)
	})
}

func TestClose(t *testing.T) {
	for _, what := range []string{"scheduler", "blob"} {
		synctest.Test(t, func(t *testing.T) {
			f := newSource(32 * mib)
			f.set(func(ctx context.Context, n int, whole []byte) (io.ReadCloser, error) {
				if n == 0 {
					return nil, errdefs.ErrUnavailable // pauses
				}
				return newGate(ctx, whole), nil // hangs
			})
			s := New(Options{Parallel: 2, Backoff: time.Minute})
			b := s.Blob("registry", f.desc(), f)
			var readers errgroup.Group
			for i := range 6 {
				readers.Go(func() error {
					if err := read(b, f, Foreground, i*4*mib, 10); !errdefs.IsUnavailable(err) {
						return fmt.Errorf("reader %d: %v", i, err)
					}
					return nil
				})
				synctest.Wait()
			}
			if what == "blob" {
				b.Close()
			} else if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if err := readers.Wait(); err != nil {
				t.Error(err)
			}
			if err := read(b, f, Foreground, 0, 10); !errdefs.IsUnavailable(err) {
				t.Errorf("read after closing: %v", err)
			}
			if err := s.Close(); err != nil { // the bubble finds goroutines that are left
				t.Fatal(err)
			}
			if st := s.Stats(); st.Memory != 0 || st.InFlight+st.Queued != 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}
