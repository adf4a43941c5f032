package fetch

import (
	"bytes"
	"context"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"
)

func TestLine(t *testing.T) {
	for name, tt := range map[string]struct {
		trip time.Duration
		rate float64 // bytes in a second
		want int64
	}{
		"wide and far":    {20 * time.Millisecond, 1e9, mib},
		"narrow and far":  {20 * time.Millisecond, 20e6, 400_000},
		"narrow and near": {time.Millisecond, 12.5e6, mib / 4},
	} {
		var l line
		if got := l.carries(mib); got != mib {
			t.Errorf("unknown: %d", got)
		}
		for i := range 50 {
			sharing := i%4 + 1
			took := time.Duration(mib * float64(sharing) / tt.rate * float64(time.Second))
			l.measured(tt.trip+time.Duration(i%3)*time.Millisecond/4, mib, took, sharing)
		}
		if got := l.carries(mib); got < tt.want*9/10 || got > tt.want*11/10 {
			t.Errorf("%s: %d, want about %d", name, got, tt.want)
		}
	}
}

// TestNarrow reads here and there through a narrow line: less is asked for beside what is wanted, as soon as that shows.
func TestNarrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newSource(64 * mib)
		f.set(func(_ context.Context, _ int, whole []byte) (io.ReadCloser, error) {
			time.Sleep(20 * time.Millisecond)
			return io.NopCloser(&narrow{whole}), nil
		})
		_, b := begin(t, f, Options{})
		for i := range 6 {
			mustRead(t, b, f, Foreground, 10*mib*i, 10)
			synctest.Wait()
			time.Sleep(time.Second) // the GET ends
		}
		calls := f.requests()
		if first, last := calls[0], calls[len(calls)-1]; first.length != mib || last.length != mib/4 {
			t.Errorf("first %d bytes were asked for, at last %d; want %d and %d", first.length, last.length, mib, mib/4)
		}
	})
}

// TestWindow: what a start will read comes in order through a narrow line, not all at once, and without a pause.
func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newSource(64 * mib)
		shared := make(chan struct{}, 1) // the line
		f.set(func(_ context.Context, _ int, whole []byte) (io.ReadCloser, error) {
			time.Sleep(20 * time.Millisecond)
			return io.NopCloser(&sharing{narrow{whole}, shared}), nil
		})
		_, b := begin(t, f, Options{})
		mustRead(t, b, f, Foreground, 63*mib, mib) // the line is known now
		synctest.Wait()
		begun := time.Now()
		var readers errgroup.Group
		var came [6]time.Duration
		for i := range came {
			readers.Go(func() error {
				err := read(b, f, Profile, 10*mib*i, 2*mib)
				came[i] = time.Since(begun)
				return err
			})
			synctest.Wait()
		}
		if err := readers.Wait(); err != nil {
			t.Fatal(err)
		}
		alone := time.Duration(2 * mib / 12.5e6 * float64(time.Second))
		for i, d := range came {
			if least := time.Duration(i+1) * alone; d < least || d > least+alone/2+40*time.Millisecond {
				t.Errorf("range %d came after %v, want about %v", i, d, least)
			}
		}
	})
}

// TestManySmall: small ranges that a start will read keep a wide line busy together, but not before it is known to be wide.
func TestManySmall(t *testing.T) {
	for _, known := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f := newSource(64 * mib)
			var now, most atomic.Int64
			f.set(func(_ context.Context, _ int, whole []byte) (io.ReadCloser, error) {
				most.Store(max(most.Load(), now.Add(1)))
				defer now.Add(-1)
				time.Sleep(20 * time.Millisecond)
				return io.NopCloser(bytes.NewReader(whole)), nil
			})
			_, b := begin(t, f, Options{Parallel: 8})
			if known {
				b.host.line = line{20 * time.Millisecond, 1e9}
			}
			var readers errgroup.Group
			for i := range 40 {
				readers.Go(func() error { return read(b, f, Profile, mib*i, 1000) })
			}
			if err := readers.Wait(); err != nil {
				t.Fatal(err)
			}
			if want := map[bool]int64{false: 6, true: 12}[known]; most.Load() != want {
				t.Errorf("known %v: %d GETs at a time, want %d", known, most.Load(), want)
			}
		})
	}
}

// sharing has bodies take turns on one line.
type sharing struct {
	narrow
	line chan struct{}
}

func (s *sharing) Read(p []byte) (int, error) {
	s.line <- struct{}{}
	defer func() { <-s.line }()
	return s.narrow.Read(p)
}

// narrow delivers 12.5 MB in a second.
type narrow struct{ left []byte }

func (n *narrow) Read(p []byte) (int, error) {
	if len(n.left) == 0 {
		return 0, io.EOF
	}
	got := copy(p, n.left)
	n.left = n.left[got:]
	time.Sleep(time.Duration(float64(got) / 12.5e6 * float64(time.Second)))
	return got, nil
}
