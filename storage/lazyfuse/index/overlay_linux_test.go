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
	unpackTo(t, root, plain, changeset.Options{})
	return describeTree(t, root)
}

func unpackTo(t *testing.T, root string, plain []byte, o changeset.Options) changeset.Pending {
	t.Helper()
	pending, err := changeset.ApplyOverlay(context.Background(), root, bytes.NewReader(plain), o)
	if err != nil {
		t.Fatal(err)
	}
	return pending
}

func describeTree(t *testing.T, root string) []string {
	t.Helper()
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
	s := fmt.Sprintf("%s %v %d:%d %d.%09d nlink=%d", name, FileMode(st.Mode), st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec, st.Nlink)
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
	plain := tarOf(t, allTypes(severalChunks))
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

// TestSettleEqualsOverlay puts a layer that implies directories and hides files on one that has some of them.
func TestSettleEqualsOverlay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making devices and trusted attributes needs root")
	}
	run := dir("run", 0o1770)
	run.Uid, run.PAXRecords = 12, map[string]string{"SCHILY.xattr.user.below": "yes"}
	lower := tarOf(t, []item{dir(".", 0o711), run, dir("gone", 0o700), reg("gone/file", nil), reg("also", nil), reg("dev/.wh..wh..opq", nil)})
	upper := tarOf(t, append(allTypes(severalChunks)[1:], reg("run/.wh.nothing", nil)))
	below, above := t.TempDir(), t.TempDir()
	unpackTo(t, below, lower, changeset.Options{})
	o := changeset.Options{Lower: []string{below}}
	if err := changeset.Settle(above, unpackTo(t, above, upper, o), o); err != nil {
		t.Fatal(err)
	}
	base := record(t, lower)
	x, err := record(t, upper).Settle(func(path string) (Node, bool, error) {
		i, ok := base.Find(path)
		if !ok {
			return Node{}, false, nil
		}
		return base.Node(i), true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	got, want := describe(t, x, upper), describeTree(t, above)
	slices.Sort(got)
	// The root is what Create made it, before the layer was unpacked.
	same(t, "tree", withoutTimes(got[1:]), withoutTimes(want[1:]))
	if x.Node(0).Mode.Perm() != 0o711 {
		t.Errorf("root has mode %v", x.Node(0).Mode)
	}
}
