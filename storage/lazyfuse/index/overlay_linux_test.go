package index

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/internal/changeset"
)

// unpacked describes, in describe's words, what storage/overlay makes of a layer before it knows those below.
func unpacked(t *testing.T, plain []byte) []string {
	t.Helper()
	root := t.TempDir()
	if _, err := changeset.ApplyOverlay(context.Background(), root, bytes.NewReader(plain), changeset.Options{}); err != nil {
		t.Fatal(err)
	}
	var lines []string
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		lines = append(lines, describeFile(t, p, "/"+strings.TrimPrefix(rel, ".")))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

func describeFile(t *testing.T, p, name string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		t.Fatal(err)
	}
	s := fmt.Sprintf("%s %v %d:%d %d.%09d nlink=%d", name, fileMode(st.Mode), st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec, st.Nlink)
	target := ""
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		data, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		s += fmt.Sprintf(" %d %s", st.Size, digest.FromBytes(data).Encoded()[:12])
	case unix.S_IFLNK:
		var err error
		if target, err = os.Readlink(p); err != nil {
			t.Fatal(err)
		}
	}
	names := make([]byte, 4096)
	n, err := unix.Llistxattr(p, names)
	if err != nil {
		t.Fatal(err)
	}
	xattrs := []string{}
	for k := range strings.SplitSeq(strings.Trim(string(names[:n]), "\x00"), "\x00") {
		value := make([]byte, 4096)
		if m, err := unix.Lgetxattr(p, k, value); err == nil && k != "" {
			xattrs = append(xattrs, fmt.Sprintf("%s=%q", k, value[:m]))
		}
	}
	slices.Sort(xattrs)
	return fmt.Sprintf("%s rdev=%d link=%q %v", s, st.Rdev, target, xattrs)
}

// TestEqualsOverlay compares an index with what the overlay driver unpacks of the same layer. The time of a whiteout is
// when it was made, and not compared.
func TestEqualsOverlay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making devices and trusted attributes needs root")
	}
	plain := tarOf(t, allTypes())
	got, want := describe(t, record(t, plain), plain), unpacked(t, plain)
	slices.Sort(got)
	same(t, "tree", withoutTimes(got), withoutTimes(want))
}

func withoutTimes(lines []string) []string {
	out := slices.Clone(lines)
	for i, l := range out {
		if strings.Contains(l, " Dc--------- ") {
			f := strings.Fields(l)
			f[3] = "-"
			out[i] = strings.Join(f, " ")
		}
	}
	return out
}
