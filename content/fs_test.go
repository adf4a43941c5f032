package content_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/testsuite"
)

func open(t testing.TB, dir string) *content.FS {
	t.Helper()
	s, err := content.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestFS(t *testing.T) {
	testsuite.TestContent(t, func(t *testing.T) content.Store { return open(t, t.TempDir()) })
}

func put(t testing.TB, s *content.FS, data string) digest.Digest {
	t.Helper()
	desc, err := content.WriteBytes(t.Context(), s, "", []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return desc.Digest
}

func TestOpenRefuses(t *testing.T) {
	if _, err := content.Open("relative"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("relative path: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := content.Open(file); err == nil {
		t.Error("a file was opened as a store")
	}
}

// TestReopen checks what lives on, and that what cannot be resumed is swept.
func TestReopen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	dgst := put(t, s, "kept")
	w, err := s.Writer(t.Context(), "half", ocispec.Descriptor{Size: 8})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	half := content.IngestName("half")
	for name, text := range map[string]string{
		"stray":                                 "x",
		content.IngestName("no meta") + ".data": "x",
		content.IngestName("torn") + ".data":    "x",
		content.IngestName("torn") + ".meta":    `{"ref":"to`,
		content.IngestName("zeros") + ".data":   "x",
		content.IngestName("zeros") + ".meta":   strings.Repeat("\x00", 50),
		content.IngestName("no data") + ".meta": `{"ref":"no data"}`,
		content.IngestName("other") + ".data":   "x",
		content.IngestName("other") + ".meta":   `{"ref":"half"}`,
		content.IngestName("digest") + ".data":  "x",
		content.IngestName("digest") + ".meta":  `{"ref":"digest","expected":"sha256:../../.."}`,
		content.IngestName("huge") + ".data":    "x",
		content.IngestName("huge") + ".meta":    `{"ref":"huge","x":"` + strings.Repeat("x", 1<<20) + `"}`,
		half + ".meta.new":                      `{"ref":"ha`,
	} {
		if err := os.WriteFile(filepath.Join(dir, "ingest", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "ingest", content.IngestName("directory")+".data"), 0o700); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	left, err := os.ReadDir(filepath.Join(dir, "ingest"))
	if err != nil || len(left) != 2 || left[0].Name() != half+".data" || left[1].Name() != half+".meta" {
		t.Fatalf("left after opening: %v, %v; want only the files of %s", left, err, half)
	}
	if err := s.Verify(t.Context(), dgst); err != nil {
		t.Error(err)
	}
	w, err = s.Writer(t.Context(), "half", ocispec.Descriptor{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("more")); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), 0, digest.FromString("halfmore")); err != nil {
		t.Fatal(err)
	}
}

// TestDamage puts things under a digest that are not its blob.
func TestDamage(t *testing.T) {
	data := "what belongs here"
	dgst := digest.FromString(data)
	for name, damage := range map[string]func(path string) error{
		"empty":   func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"symlink": func(path string) error { return os.Symlink("/etc/passwd", path) },
		"inner":   func(path string) error { return os.Symlink("../../ingest", path) },
	} {
		t.Run(name, func(t *testing.T) {
			if name != "empty" && runtime.GOOS == "windows" {
				t.Skip("symbolic links need a privilege on Windows")
			}
			dir := t.TempDir()
			s := open(t, dir)
			path := filepath.Join(dir, "blobs", "sha256", dgst.Encoded())
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Info(t.Context(), dgst); !errdefs.IsNotFound(err) {
				t.Errorf("info: %v", err)
			}
			if _, err := s.ReaderAt(t.Context(), ocispec.Descriptor{Digest: dgst}); err == nil {
				t.Error("it can be read")
			}
			if err := s.Walk(t.Context(), func(b content.Blob) error { return fmt.Errorf("found %v", b) }); err != nil {
				t.Error(err)
			}
			put(t, s, data)
			if err := s.Verify(t.Context(), dgst); err != nil {
				t.Errorf("after writing it again: %v", err)
			}
			if fi, err := os.Lstat(path); err != nil || !fi.Mode().IsRegular() {
				t.Errorf("after writing it again: %v, %v", fi, err)
			}
			if err := errors.Join(os.Remove(path), damage(path), s.Delete(t.Context(), dgst)); err != nil {
				t.Errorf("delete: %v", err)
			}
		})
	}
	t.Run("other bytes", func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, dir)
		put(t, s, data)
		path := filepath.Join(dir, "blobs", "sha256", dgst.Encoded())
		if err := os.WriteFile(path, []byte("what does not"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(t.Context(), dgst); !errdefs.IsDataLoss(err) {
			t.Errorf("verify: %v", err)
		}
		if _, err := content.ReadAll(t.Context(), s, ocispec.Descriptor{Digest: dgst}, 100); !errdefs.IsDataLoss(err) {
			t.Errorf("read: %v", err)
		}
		if err := s.Delete(t.Context(), dgst); err != nil {
			t.Error(err)
		}
		put(t, s, data)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Verify(ctx, dgst); !errors.Is(err, context.Canceled) || errdefs.IsDataLoss(err) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

// TestCommitHidesUntilDurable looks at a blob between its renaming and the sync of its directory, where a second commit of
// it waits.
func TestCommitHidesUntilDurable(t *testing.T) {
	s := open(t, t.TempDir())
	data := []byte("two at once")
	dgst := digest.FromBytes(data)
	write := func(ref string) content.Writer {
		w, err := s.Writer(t.Context(), ref, ocispec.Descriptor{})
		if err == nil {
			_, err = w.Write(data)
		}
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	first, second, third := write("first"), write("second"), write("third")
	waiting := make(chan error, 1)
	s.SetStep(func(step string) error {
		if step != "commit: sync directory" {
			return nil
		}
		if _, err := s.Info(t.Context(), dgst); !errdefs.IsNotFound(err) {
			t.Errorf("info before it is durable: %v", err)
		}
		if _, err := s.ReaderAt(t.Context(), ocispec.Descriptor{Digest: dgst}); !errdefs.IsNotFound(err) {
			t.Errorf("reader before it is durable: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := third.Commit(ctx, 0, ""); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled while it waited: %v", err)
		}
		go func() { waiting <- second.Commit(t.Context(), 0, "") }()
		return nil
	})
	if err := first.Commit(t.Context(), 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errdefs.IsAlreadyExists(err) {
		t.Errorf("second commit: %v", err)
	}
	if st, err := s.Status(t.Context(), "third"); err != nil || st.Offset != int64(len(data)) {
		t.Errorf("the ingest of the cancelled commit: %+v, %v", st, err)
	}
}

func FuzzMeta(f *testing.F) {
	for _, seed := range []string{
		`{"ref":"a","total":5,"expected":"sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae","started":"2026-01-02T03:04:05Z"}`,
		`{"ref":""}`, `{"ref":"a","total":-1}`, `{"ref":"a","expected":"sha256:../x"}`, `{`, "\x00\x00", `null`, `{"ref":"\ud800"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		name := content.IngestName("a")
		if ref, err := content.ParseMeta(name, data); err == nil && ref != "a" {
			t.Errorf("ref %q in the directory of \"a\"", ref)
		}
	})
}

func BenchmarkSmallBlobs(b *testing.B) {
	s := open(b, b.TempDir())
	n := 0
	for b.Loop() {
		n++
		put(b, s, fmt.Sprint("blob ", n))
	}
}

func BenchmarkIngest(b *testing.B) {
	const size = 64 << 20
	s := open(b, b.TempDir())
	chunk := bytes.Repeat([]byte("0123456789abcdef"), 256<<10/16)
	b.SetBytes(size)
	for b.Loop() {
		w, err := s.Writer(b.Context(), "big", ocispec.Descriptor{})
		if err != nil {
			b.Fatal(err)
		}
		for range size / len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				b.Fatal(err)
			}
		}
		dgst := w.Digest()
		if err := errors.Join(w.Commit(b.Context(), size, dgst), s.Delete(b.Context(), dgst)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkInfo(b *testing.B) {
	s := open(b, b.TempDir())
	dgst := put(b, s, "blob")
	for b.Loop() {
		if _, err := s.Info(b.Context(), dgst); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpenBlob(b *testing.B) {
	s := open(b, b.TempDir())
	dgst := put(b, s, "blob")
	for b.Loop() {
		ra, err := s.ReaderAt(b.Context(), ocispec.Descriptor{Digest: dgst})
		if err == nil {
			err = ra.Close()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
