package testsuite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
)

// TestContent checks that a content.Store keeps its contract. open answers an empty store that is closed with the test.
func TestContent(t *testing.T, open func(t *testing.T) content.Store) {
	for name, test := range map[string]func(*testing.T, content.Store){
		"CommitMakesVisible":      contentCommit,
		"EmptyBlob":               contentEmpty,
		"Sha512":                  contentSha512,
		"ResumeAfterClose":        contentResume,
		"Truncate":                contentTruncate,
		"RefIsLocked":             contentLock,
		"WrongSizeAndDigest":      contentMismatch,
		"WriterKnowsWhatIsThere":  contentExists,
		"SecondCommitOfABlob":     contentTwice,
		"EndlessBody":             contentEndless,
		"ClosedWriter":            contentClosed,
		"Abort":                   contentAbort,
		"Ingests":                 contentIngests,
		"BadArguments":            contentBadArguments,
		"DeleteUnderReader":       contentDelete,
		"Walk":                    contentWalk,
		"ReadAt":                  contentReadAt,
		"HelpersReadAndWrite":     contentHelpers,
		"ManyWritersOfOneBlob":    contentManySame,
		"ManyWritersOfManyBlobs":  contentManyDifferent,
		"WaitersDoNotWriteAgain":  contentWaiters,
		"ConflictingDescriptions": contentConflict,
		"AnyOrderOfWrites":        contentRandom,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func describe(data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func noise(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	data := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(data) // never fails
	return data
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantKind fails the test unless err is of an errdefs kind.
func wantKind(t *testing.T, what string, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("%s: got error %v, want %v", what, err, kind)
	}
}

func put(t *testing.T, s content.Store, data []byte) digest.Digest {
	t.Helper()
	desc := describe(data)
	must(t, content.Write(t.Context(), s, "put-"+desc.Digest.String(), desc, bytes.NewReader(data)))
	return desc.Digest
}

func wantBlob(t *testing.T, s content.Store, data []byte, dgst digest.Digest) {
	t.Helper()
	ra, err := s.ReaderAt(t.Context(), ocispec.Descriptor{Digest: dgst})
	must(t, err)
	defer ra.Close()
	got, err := io.ReadAll(content.NewReader(ra))
	must(t, err)
	if !bytes.Equal(got, data) || ra.Size() != int64(len(data)) {
		t.Fatalf("blob %s reads as %d bytes (size %d), want %d equal ones", dgst, len(got), ra.Size(), len(data))
	}
	info, err := s.Info(t.Context(), dgst)
	must(t, err)
	if info.Digest != dgst || info.Size != int64(len(data)) || info.CreatedAt.IsZero() {
		t.Fatalf("info of blob %s is %+v", dgst, info)
	}
	must(t, s.Verify(t.Context(), dgst))
}

func wantNoBlob(t *testing.T, s content.Store, dgst digest.Digest) {
	t.Helper()
	_, err := s.Info(t.Context(), dgst)
	wantKind(t, "info", err, errdefs.ErrNotFound)
	_, err = s.ReaderAt(t.Context(), ocispec.Descriptor{Digest: dgst})
	wantKind(t, "reader", err, errdefs.ErrNotFound)
	wantKind(t, "verify", s.Verify(t.Context(), dgst), errdefs.ErrNotFound)
	wantKind(t, "delete", s.Delete(t.Context(), dgst), errdefs.ErrNotFound)
}

func contentCommit(t *testing.T, s content.Store) {
	data := noise(1, 100_000)
	desc := describe(data)
	w := openIngest(t, s, "layer/1", desc)
	if _, err := w.Write(data[:60_000]); err != nil {
		t.Fatal(err)
	}
	wantNoBlob(t, s, desc.Digest)
	st, err := s.Status(t.Context(), "layer/1")
	must(t, err)
	if st.Ref != "layer/1" || st.Offset != 60_000 || st.Total != desc.Size || st.Expected != desc.Digest || st.StartedAt.IsZero() || st.UpdatedAt.IsZero() {
		t.Fatalf("status %+v", st)
	}
	_, err = w.Write(data[60_000:])
	must(t, err)
	if w.Digest() != desc.Digest {
		t.Fatalf("digest %s, want %s", w.Digest(), desc.Digest)
	}
	must(t, w.Commit(t.Context(), desc.Size, desc.Digest))
	wantBlob(t, s, data, desc.Digest)
	_, err = s.Status(t.Context(), "layer/1")
	wantKind(t, "status after commit", err, errdefs.ErrNotFound)
}

func contentEmpty(t *testing.T, s content.Store) {
	w := openIngest(t, s, "empty", ocispec.Descriptor{})
	must(t, w.Commit(t.Context(), 0, ""))
	wantBlob(t, s, nil, digest.FromBytes(nil))
}

func contentSha512(t *testing.T, s content.Store) {
	data := noise(2, 5000)
	dgst := digest.SHA512.FromBytes(data)
	w := openIngest(t, s, "known from the start", ocispec.Descriptor{Digest: dgst})
	_, err := w.Write(data)
	must(t, err)
	if w.Digest() != dgst {
		t.Fatalf("digest %s, want %s", w.Digest(), dgst)
	}
	must(t, w.Commit(t.Context(), 0, ""))
	wantBlob(t, s, data, dgst)
	must(t, s.Delete(t.Context(), dgst))

	w = openIngest(t, s, "known at the end", ocispec.Descriptor{})
	_, err = w.Write(data)
	must(t, err)
	must(t, w.Commit(t.Context(), 0, dgst))
	wantBlob(t, s, data, dgst)
	wantNoBlob(t, s, digest.FromBytes(data))
}

func contentBadArguments(t *testing.T, s content.Store) {
	for _, bad := range []digest.Digest{
		"", "sha256", "sha256:", "sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e",
		"sha256:../../../../../../../../../../../../../../../../../../../etc/passwd",
		digest.Digest("sha256:" + strings.Repeat("A", 64)), digest.SHA384.FromString("x"),
	} {
		_, err := s.Info(t.Context(), bad)
		wantKind(t, "info of "+string(bad), err, errdefs.ErrInvalidArgument)
		_, err = s.ReaderAt(t.Context(), ocispec.Descriptor{Digest: bad})
		wantKind(t, "reader of "+string(bad), err, errdefs.ErrInvalidArgument)
		wantKind(t, "delete of "+string(bad), s.Delete(t.Context(), bad), errdefs.ErrInvalidArgument)
		wantKind(t, "verify of "+string(bad), s.Verify(t.Context(), bad), errdefs.ErrInvalidArgument)
		if bad == "" {
			continue // means unknown below
		}
		_, err = s.Writer(t.Context(), "r", ocispec.Descriptor{Digest: bad})
		wantKind(t, "writer of "+string(bad), err, errdefs.ErrInvalidArgument)
		wantKind(t, "commit of "+string(bad), openIngest(t, s, "r", ocispec.Descriptor{}).Commit(t.Context(), 0, bad), errdefs.ErrInvalidArgument)
	}
	for _, ref := range []string{"", strings.Repeat("x", 4097)} {
		_, err := s.Writer(t.Context(), ref, ocispec.Descriptor{})
		wantKind(t, "writer of a bad ref", err, errdefs.ErrInvalidArgument)
		_, err = s.Status(t.Context(), ref)
		wantKind(t, "status of a bad ref", err, errdefs.ErrInvalidArgument)
		wantKind(t, "abort of a bad ref", s.Abort(t.Context(), ref), errdefs.ErrInvalidArgument)
	}
	_, err := s.Writer(t.Context(), "negative", ocispec.Descriptor{Size: -1})
	wantKind(t, "negative size", err, errdefs.ErrInvalidArgument)
}

func contentDelete(t *testing.T, s content.Store) {
	data := noise(5, 300_000)
	dgst := put(t, s, data)
	ra, err := s.ReaderAt(t.Context(), ocispec.Descriptor{Digest: dgst})
	must(t, err)
	defer ra.Close()
	must(t, s.Delete(t.Context(), dgst))
	wantNoBlob(t, s, dgst)
	got, err := io.ReadAll(content.NewReader(ra))
	must(t, err)
	if !bytes.Equal(got, data) {
		t.Fatal("a reader that was open before the deletion reads something else")
	}
}

func contentWalk(t *testing.T, s content.Store) {
	want := map[digest.Digest]int64{}
	for i := range 20 {
		want[put(t, s, noise(uint64(i), i))] = int64(i)
	}
	must(t, openIngest(t, s, "not a blob", ocispec.Descriptor{}).Close())
	got := map[digest.Digest]int64{}
	must(t, s.Walk(t.Context(), func(b content.Blob) error { got[b.Digest] = b.Size; return nil }))
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("walk found %v, want %v", got, want)
	}
	stop, calls := errors.New("enough"), 0
	err := s.Walk(t.Context(), func(content.Blob) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Fatalf("walk made %d calls and answered %v after fn failed", calls, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Walk(ctx, func(content.Blob) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled walk: %v", err)
	}
}

func contentReadAt(t *testing.T, s content.Store) {
	data := noise(6, 10_000)
	ra, err := s.ReaderAt(t.Context(), ocispec.Descriptor{Digest: put(t, s, data)})
	must(t, err)
	defer ra.Close()
	p := make([]byte, 100)
	n, err := ra.ReadAt(p, 5000)
	if n != 100 || err != nil || !bytes.Equal(p, data[5000:5100]) {
		t.Fatalf("ReadAt in the middle: %d, %v", n, err)
	}
	if n, err := ra.ReadAt(p, 9950); n != 50 || err != io.EOF || !bytes.Equal(p[:50], data[9950:]) {
		t.Fatalf("ReadAt over the end: %d, %v", n, err)
	}
}

func contentHelpers(t *testing.T, s content.Store) {
	desc, err := content.WriteBytes(t.Context(), s, "text/plain", []byte("small"))
	must(t, err)
	_, err = content.WriteBytes(t.Context(), s, "text/plain", []byte("small"))
	must(t, err)
	got, err := content.ReadAll(t.Context(), s, desc, 5)
	if err != nil || string(got) != "small" {
		t.Fatalf("read %q, %v", got, err)
	}
	_, err = content.ReadAll(t.Context(), s, desc, 4)
	wantKind(t, "read over the limit", err, errdefs.ErrOutOfRange)
	err = content.Write(t.Context(), s, "bad", describe([]byte("good")), strings.NewReader("evil"))
	wantKind(t, "write of other bytes", err, errdefs.ErrFailedPrecondition)
	_, err = s.Status(t.Context(), "bad")
	wantKind(t, "ingest of a failed write", err, errdefs.ErrNotFound)
}

func contentManySame(t *testing.T, s content.Store) {
	data := noise(7, 200_000)
	dgst := digest.FromBytes(data)
	var done, existed atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			w, err := s.Writer(t.Context(), fmt.Sprint("ref", i), describe(data))
			if err == nil {
				if _, err = w.Write(data); err == nil {
					err = w.Commit(t.Context(), 0, "")
				}
			}
			if err == nil {
				done.Add(1)
			} else if errdefs.IsAlreadyExists(err) {
				existed.Add(1)
			} else {
				t.Error(err)
			}
			if _, err := s.Info(t.Context(), dgst); err != nil {
				t.Errorf("not visible after commit %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if done.Load() != 1 || existed.Load() != 15 {
		t.Fatalf("%d commits made the blob and %d found it, want 1 and 15", done.Load(), existed.Load())
	}
	wantBlob(t, s, data, dgst)
	if all, err := s.Ingests(t.Context()); err != nil || len(all) != 0 {
		t.Fatalf("ingests left: %v, %v", all, err)
	}
}

func contentManyDifferent(t *testing.T, s content.Store) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				data := noise(uint64(100+10*i+j), 5000+j)
				if err := content.Write(t.Context(), s, fmt.Sprint(i), describe(data), bytes.NewReader(data)); err != nil {
					t.Error(err)
				}
				if j%2 == 0 {
					if err := s.Delete(t.Context(), digest.FromBytes(data)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	n := 0
	must(t, s.Walk(t.Context(), func(b content.Blob) error { n++; return s.Verify(t.Context(), b.Digest) }))
	if n != 40 {
		t.Fatalf("%d blobs, want 40", n)
	}
}

// contentWaiters opens one ref from many sides until each is told that the blob is there. Only one may ever get to write: a
// second one would fetch the blob again.
func contentWaiters(t *testing.T, s content.Store) {
	for round := range uint64(50) {
		data := noise(round, 1000)
		var opened atomic.Int32
		var group sync.WaitGroup
		errs := make(chan error, 8)
		for range cap(errs) {
			group.Go(func() {
				for {
					w, err := s.Writer(t.Context(), "same", describe(data))
					switch {
					case errdefs.IsUnavailable(err):
						continue
					case errdefs.IsAlreadyExists(err):
						return
					case err != nil:
						errs <- err
						return
					}
					opened.Add(1)
					if _, err := w.Write(data); err != nil {
						errs <- errors.Join(err, w.Close())
						return
					}
					if err := w.Commit(t.Context(), 0, ""); err != nil {
						errs <- err
						return
					}
				}
			})
		}
		group.Wait()
		close(errs)
		must(t, <-errs)
		if n := opened.Load(); n != 1 {
			t.Fatalf("round %d: %d writers got the blob to write, want 1", round, n)
		}
	}
}
