package content_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// TestDiskFull fills a file system of 1 MB, makes room, and goes on. It needs root to mount it.
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	s := open(t, dir)
	filler := put(t, s, string(make([]byte, 700_000)))
	data := bytes.Repeat([]byte("0123456789"), 60_000)
	write := func() error {
		w, err := s.Writer(t.Context(), "big", ocispec.Descriptor{})
		if err != nil {
			return err
		}
		defer w.Close()
		st, err := w.Status()
		if err != nil {
			return err
		}
		if _, err = w.Write(data[st.Offset:]); err != nil {
			return err
		}
		return w.Commit(t.Context(), int64(len(data)), digest.FromBytes(data))
	}
	if err := write(); !errdefs.IsResourceExhausted(err) {
		t.Fatalf("write to a full disk: %v", err)
	}
	st, err := s.Status(t.Context(), "big")
	if err != nil || st.Offset == 0 || st.Offset >= int64(len(data)) {
		t.Fatalf("after the disk was full: %+v, %v", st, err)
	}
	if err := s.Delete(t.Context(), filler); err != nil {
		t.Fatal(err)
	}
	if err := write(); err != nil {
		t.Fatalf("after making room: %v", err)
	}
	if err := s.Verify(t.Context(), digest.FromBytes(data)); err != nil {
		t.Fatal(err)
	}
}
