package testsuite

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
)

func openIngest(t *testing.T, s content.Store, ref string, desc ocispec.Descriptor) content.Writer {
	t.Helper()
	w, err := s.Writer(t.Context(), ref, desc)
	if err != nil {
		t.Fatalf("writer for %q: %v", ref, err)
	}
	t.Cleanup(func() { _ = w.Close() }) // closing twice is allowed
	return w
}

func contentResume(t *testing.T, s content.Store) {
	data := noise(3, 3_000_000)
	desc := describe(data)
	for from := 0; from < len(data); from += 1_000_000 {
		w := openIngest(t, s, "r", desc)
		st, err := w.Status()
		must(t, err)
		if st.Offset != int64(from) {
			t.Fatalf("resumed at %d, want %d", st.Offset, from)
		}
		if got := w.Digest(); got != digest.FromBytes(data[:from]) {
			t.Fatalf("digest at %d is %s", from, got)
		}
		_, err = w.Write(data[from : from+1_000_000])
		must(t, err)
		must(t, w.Close())
	}
	must(t, openIngest(t, s, "r", ocispec.Descriptor{}).Commit(t.Context(), 0, ""))
	wantBlob(t, s, data, desc.Digest)
}

func contentTruncate(t *testing.T, s content.Store) {
	w := openIngest(t, s, "t", ocispec.Descriptor{})
	_, err := w.Write([]byte("hello wrong"))
	must(t, err)
	wantKind(t, "longer", w.Truncate(12), errdefs.ErrOutOfRange)
	wantKind(t, "negative", w.Truncate(-1), errdefs.ErrOutOfRange)
	must(t, w.Truncate(6))
	if w.Digest() != digest.FromString("hello ") {
		t.Fatal("the digest does not follow Truncate")
	}
	_, err = w.Write([]byte("world"))
	must(t, err)
	must(t, w.Commit(t.Context(), 11, digest.FromString("hello world")))
	wantBlob(t, s, []byte("hello world"), digest.FromString("hello world"))
}

func contentLock(t *testing.T, s content.Store) {
	w := openIngest(t, s, "locked", ocispec.Descriptor{})
	_, err := s.Writer(t.Context(), "locked", ocispec.Descriptor{})
	wantKind(t, "second writer", err, errdefs.ErrUnavailable)
	wantKind(t, "abort", s.Abort(t.Context(), "locked"), errdefs.ErrUnavailable)
	must(t, w.Close())
	w = openIngest(t, s, "locked", ocispec.Descriptor{})
	wantKind(t, "commit", w.Commit(t.Context(), 5, ""), errdefs.ErrFailedPrecondition)
	must(t, openIngest(t, s, "locked", ocispec.Descriptor{}).Close()) // a failed commit unlocks too
	must(t, s.Abort(t.Context(), "locked"))
}

func contentMismatch(t *testing.T, s content.Store) {
	data := []byte("what came")
	for _, c := range []struct {
		name string
		desc ocispec.Descriptor
		size int64
		dgst digest.Digest
	}{
		{name: "size", size: 10},
		{name: "expected size", desc: ocispec.Descriptor{Size: 10}},
		{name: "digest", dgst: digest.FromString("what was wanted")},
		{name: "expected digest", desc: ocispec.Descriptor{Digest: digest.FromString("what was wanted")}},
	} {
		w := openIngest(t, s, c.name, c.desc)
		_, err := w.Write(data)
		must(t, err)
		wantKind(t, c.name, w.Commit(t.Context(), c.size, c.dgst), errdefs.ErrFailedPrecondition)
		wantNoBlob(t, s, digest.FromBytes(data))
		wantNoBlob(t, s, digest.FromString("what was wanted"))
		st, err := s.Status(t.Context(), c.name)
		must(t, err)
		if st.Offset != int64(len(data)) {
			t.Fatalf("%s: a failed commit left %d bytes, want %d", c.name, st.Offset, len(data))
		}
		must(t, s.Abort(t.Context(), c.name))
	}
}

func contentExists(t *testing.T, s content.Store) {
	data := []byte("here already")
	dgst := put(t, s, data)
	_, err := s.Writer(t.Context(), "again", describe(data))
	wantKind(t, "writer", err, errdefs.ErrAlreadyExists)
	_, err = s.Status(t.Context(), "again")
	wantKind(t, "status", err, errdefs.ErrNotFound)
	must(t, s.Delete(t.Context(), dgst))
	must(t, openIngest(t, s, "again", describe(data)).Close())
}

func contentTwice(t *testing.T, s content.Store) {
	data := []byte("twice")
	first, second := openIngest(t, s, "first", ocispec.Descriptor{}), openIngest(t, s, "second", describe(data))
	for _, w := range []content.Writer{first, second} {
		_, err := w.Write(data)
		must(t, err)
	}
	must(t, first.Commit(t.Context(), 0, ""))
	wantKind(t, "second commit", second.Commit(t.Context(), 0, ""), errdefs.ErrAlreadyExists)
	_, err := s.Status(t.Context(), "second")
	wantKind(t, "status of the second", err, errdefs.ErrNotFound)
	wantBlob(t, s, data, digest.FromBytes(data))
}

func contentEndless(t *testing.T, s content.Store) {
	w := openIngest(t, s, "endless", ocispec.Descriptor{Size: 10})
	_, err := w.Write([]byte("12345678"))
	must(t, err)
	n, err := w.Write([]byte("9abcdef"))
	wantKind(t, "write", err, errdefs.ErrOutOfRange)
	if n != 0 {
		t.Fatalf("%d bytes of a write that goes too far were kept", n)
	}
	_, err = w.Write([]byte("9a"))
	must(t, err)
	must(t, w.Commit(t.Context(), 0, digest.FromString("123456789a")))
}

func contentClosed(t *testing.T, s content.Store) {
	w := openIngest(t, s, "c", ocispec.Descriptor{})
	must(t, w.Close())
	must(t, w.Close())
	_, err := w.Write([]byte("x"))
	wantKind(t, "write", err, errdefs.ErrFailedPrecondition)
	_, err = w.Status()
	wantKind(t, "status", err, errdefs.ErrFailedPrecondition)
	wantKind(t, "truncate", w.Truncate(0), errdefs.ErrFailedPrecondition)
	wantKind(t, "commit", w.Commit(t.Context(), 0, ""), errdefs.ErrFailedPrecondition)
}

func contentAbort(t *testing.T, s content.Store) {
	wantKind(t, "none", s.Abort(t.Context(), "a"), errdefs.ErrNotFound)
	w := openIngest(t, s, "a", ocispec.Descriptor{})
	_, err := w.Write([]byte("abc"))
	must(t, err)
	must(t, w.Close())
	must(t, s.Abort(t.Context(), "a"))
	wantKind(t, "twice", s.Abort(t.Context(), "a"), errdefs.ErrNotFound)
	st, err := openIngest(t, s, "a", ocispec.Descriptor{}).Status()
	must(t, err)
	if st.Offset != 0 {
		t.Fatalf("%d bytes came back after Abort", st.Offset)
	}
}

func contentIngests(t *testing.T, s content.Store) {
	refs := []string{"plain", "../../etc/passwd", "with/slash", "bell\a 0\x00", strings.Repeat("long", 1000), "ü"}
	for i, ref := range refs {
		w := openIngest(t, s, ref, ocispec.Descriptor{Size: 100})
		_, err := w.Write(noise(1, i))
		must(t, err)
	}
	all, err := s.Ingests(t.Context())
	must(t, err)
	var got []string
	for _, st := range all {
		got = append(got, st.Ref)
		if i := slices.Index(refs, st.Ref); st.Offset != int64(i) || st.Total != 100 {
			t.Errorf("ingest %d is listed as %+v", i, st)
		}
	}
	slices.Sort(got)
	slices.Sort(refs)
	if !slices.Equal(got, refs) {
		t.Fatalf("ingests %q, want %q", got, refs)
	}
}

func contentConflict(t *testing.T, s content.Store) {
	must(t, openIngest(t, s, "c", ocispec.Descriptor{}).Close())
	one := describe([]byte("one"))
	must(t, openIngest(t, s, "c", one).Close()) // tells more: allowed
	_, err := s.Writer(t.Context(), "c", ocispec.Descriptor{Size: 4})
	wantKind(t, "another size", err, errdefs.ErrFailedPrecondition)
	_, err = s.Writer(t.Context(), "c", ocispec.Descriptor{Digest: digest.FromString("two")})
	wantKind(t, "another digest", err, errdefs.ErrFailedPrecondition)
	st, err := s.Status(t.Context(), "c")
	must(t, err)
	if st.Total != one.Size || st.Expected != one.Digest {
		t.Fatalf("status %+v does not know what the second writer told", st)
	}
	must(t, s.Abort(t.Context(), "c"))
}

// contentRandom compares an ingest with a model of it through random writes, cuts and reopenings.
func contentRandom(t *testing.T, s content.Store) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var model []byte
	w := openIngest(t, s, "model", ocispec.Descriptor{})
	for i := range 300 {
		switch rnd.IntN(4) {
		case 0, 1:
			p := noise(uint64(i), rnd.IntN(3000))
			_, err := w.Write(p)
			must(t, err)
			model = append(model, p...)
		case 2:
			n := rnd.IntN(len(model) + 1)
			if len(model)-n > 5000 {
				n = len(model) - 5000
			}
			must(t, w.Truncate(int64(n)))
			model = model[:n]
		case 3:
			must(t, w.Close())
			w = openIngest(t, s, "model", ocispec.Descriptor{})
		}
		st, err := w.Status()
		must(t, err)
		if st.Offset != int64(len(model)) {
			t.Fatalf("step %d: offset %d, want %d", i, st.Offset, len(model))
		}
		if rnd.IntN(3) == 0 && w.Digest() != digest.FromBytes(model) {
			t.Fatalf("step %d: wrong digest at %d bytes", i, len(model))
		}
	}
	must(t, w.Commit(t.Context(), int64(len(model)), digest.FromBytes(model)))
	wantBlob(t, s, model, digest.FromBytes(model))
}
