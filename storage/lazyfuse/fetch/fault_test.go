package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
)

// refused is how a registry that is away looks.
func refused(context.Context, int, []byte) (io.ReadCloser, error) {
	return nil, fmt.Errorf("connection refused: %w", errdefs.ErrUnavailable)
}

// tooMany is a 429 with Retry-After.
type tooMany struct{ after time.Duration }

func (e tooMany) Error() string             { return "429" }
func (e tooMany) Unwrap() error             { return errdefs.ErrResourceExhausted }
func (e tooMany) RetryAfter() time.Duration { return e.after }

// TestBodies has the registry answer once or always with something else than was asked for.
func TestBodies(t *testing.T) {
	cut := errors.New("connection reset")
	type answer = func(ctx context.Context, whole []byte) (io.ReadCloser, error)
	for name, tt := range map[string]struct {
		answer answer
		always func(error) bool // what always answering so gives
	}{
		"short": {func(_ context.Context, b []byte) (io.ReadCloser, error) { return good(b[:len(b)/3]), nil }, nil},
		"empty": {func(context.Context, []byte) (io.ReadCloser, error) { return good(nil), nil }, errdefs.IsDataLoss},
		"long": {func(_ context.Context, b []byte) (io.ReadCloser, error) {
			return good(append(b[:len(b):len(b)], 'x')), nil
		}, errdefs.IsDataLoss},
		"endless": {func(context.Context, []byte) (io.ReadCloser, error) { return io.NopCloser(zeros{}), nil }, nil},
		"cut": {func(_ context.Context, b []byte) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(good(b[:len(b)/3]), failing{cut})), nil
		}, nil},
		"refused":      {func(context.Context, []byte) (io.ReadCloser, error) { return nil, cut }, errdefs.IsUnavailable},
		"wrong range":  {func(context.Context, []byte) (io.ReadCloser, error) { return nil, errdefs.ErrFailedPrecondition }, errdefs.IsDataLoss},
		"stalled":      {func(ctx context.Context, _ []byte) (io.ReadCloser, error) { return newGate(ctx, []byte("x")), nil }, errdefs.IsUnavailable},
		"no answer":    {func(ctx context.Context, _ []byte) (io.ReadCloser, error) { <-ctx.Done(); return nil, ctx.Err() }, errdefs.IsUnavailable},
		"read nothing": {func(context.Context, []byte) (io.ReadCloser, error) { return io.NopCloser(&lazy{}), nil }, errdefs.IsDataLoss},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newSource(mib + 100)
				var times atomic.Int64
				times.Store(2)
				f.set(func(ctx context.Context, n int, whole []byte) (io.ReadCloser, error) {
					if int64(n) < times.Load() {
						return tt.answer(ctx, whole)
					}
					return good(whole), nil
				})
				s, b := begin(t, f, Options{})
				if name != "endless" { // those bytes are wrong, which only their digest can tell
					mustRead(t, b, f, Foreground, 0, mib)
					if st := s.Stats(); st.Demand.Failures != 2 || st.Demand.Requests != 3 {
						t.Errorf("%+v %v", st, f.requests())
					}
				}
				if tt.always == nil {
					return
				}
				times.Store(1 << 30)
				begun := time.Now()
				if err := read(b, f, Foreground, mib, 100); !tt.always(err) {
					t.Errorf("always: %v", err)
				}
				if d := time.Since(begun); d > 5*time.Minute {
					t.Errorf("failed after %v", d)
				}
				times.Store(0)
				mustRead(t, b, f, Foreground, mib, 100)
			})
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// lazy answers nothing a few times before its end.
type lazy struct{ n int }

func (l *lazy) Read([]byte) (int, error) {
	if l.n++; l.n < 5 {
		return 0, nil
	}
	return 0, io.EOF
}

// TestFinal fails at once where waiting does not help.
func TestFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newSource(mib)
		_, b := begin(t, f, Options{})
		for i, kind := range []error{errdefs.ErrNotFound, errdefs.ErrUnauthenticated, errdefs.ErrPermissionDenied, errdefs.ErrInvalidArgument} {
			f.set(func(context.Context, int, []byte) (io.ReadCloser, error) {
				return nil, fmt.Errorf("the registry says: %w", kind)
			})
			if err := read(b, f, Foreground, 0, 10); !errors.Is(err, kind) {
				t.Errorf("%v: %v", kind, err)
			}
			if n := len(f.requests()); n != i+1 {
				t.Errorf("%d requests after %v", n, kind)
			}
		}
		f.set(nil)
		mustRead(t, b, f, Foreground, 0, 10)
		if d := time.Since(f.start); d != 0 {
			t.Errorf("it took %v", d)
		}
	})
}

// TestOutage takes the registry away for a minute: what is here can be read, what is not waits and recovers by itself, but for the
// background.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newSource(64 * mib)
		s, b := begin(t, f, Options{})
		mustRead(t, b, f, Foreground, 0, 10)
		f.set(refused)
		var readers errgroup.Group
		for i := range 30 {
			readers.Go(func() error {
				class := Class(i) % classes
				err := read(b, f, class, (2*i+1)*mib, 10)
				if class == Background && time.Since(f.start) < 10*time.Second && errdefs.IsUnavailable(err) {
					return nil
				}
				return err
			})
		}
		time.Sleep(keepTime / 2)
		mustRead(t, b, f, Foreground, 0, 10) // of what is kept
		time.Sleep(time.Minute - keepTime/2)
		if n := len(f.requests()); n > 30*30 {
			t.Errorf("%d requests while it was away", n)
		}
		f.set(nil)
		if err := readers.Wait(); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(f.start); d > time.Minute+10*time.Second {
			t.Errorf("back after %v", d)
		}
		synctest.Wait()
		if st := s.Stats(); st.InFlight+st.Queued != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// TestDeadline takes it away for longer than readers wait.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newSource(mib)
		s, b := begin(t, f, Options{})
		f.set(refused)
		err := read(b, f, Foreground, 0, 10)
		if !errdefs.IsUnavailable(err) || !errors.Is(err, errDeadline) {
			t.Errorf("read: %v", err)
		}
		if d := time.Since(f.start); d != 5*time.Minute {
			t.Errorf("failed after %v", d)
		}
		synctest.Wait()
		if st := s.Stats(); st.InFlight+st.Queued != 0 || st.Memory != 0 {
			t.Errorf("goes on without readers: %+v", st)
		}
		f.set(nil)
		mustRead(t, b, f, Foreground, 0, 10)
	})
}

// TestBackoff looks at the pauses between tries.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newSource(mib)
		_, b := begin(t, f, Options{Backoff: time.Second})
		f.set(func(ctx context.Context, n int, whole []byte) (io.ReadCloser, error) {
			if n < 9 {
				return refused(ctx, n, whole)
			}
			return good(whole), nil
		})
		mustRead(t, b, f, Foreground, 0, 10)
		calls := f.requests()
		for i := 1; i < len(calls); i++ {
			pause, base := calls[i].at-calls[i-1].at, time.Second<<min(i-1, 5)
			if pause < base/2 || pause > base*3/2 {
				t.Errorf("pause %d is %v, around %v was wanted", i, pause, base)
			}
		}
	})
}

// TestRetryAfter keeps away as long as the registry asks for, the background longer, and those who wait only when it was to
// one of them that it said so.
func TestRetryAfter(t *testing.T) {
	for complained := range classes {
		synctest.Test(t, func(t *testing.T) {
			f := newSource(32 * mib)
			_, b := begin(t, f, Options{})
			f.set(func(_ context.Context, n int, whole []byte) (io.ReadCloser, error) {
				if n == 0 {
					return nil, tooMany{20 * time.Second}
				}
				return good(whole), nil
			})
			var readers errgroup.Group
			var took [classes]time.Duration
			readers.Go(func() error { return read(b, f, complained, 0, 10) })
			synctest.Wait()
			for class := range classes {
				readers.Go(func() error {
					err := read(b, f, class, (int(class)+1)*8*mib, 10)
					took[class] = time.Since(f.start)
					return err
				})
			}
			if err := readers.Wait(); err != nil {
				t.Fatal(err)
			}
			for class, d := range took {
				least := time.Duration(0)
				if Class(class) >= complained {
					least = 20 * time.Second
				}
				if Class(class) == Background {
					least *= 2
				}
				if d < least || d > least+5*time.Second {
					t.Errorf("said to %s: %s waited %v, wanted %v", complained, Class(class), d, least)
				}
			}
		})
	}
}
