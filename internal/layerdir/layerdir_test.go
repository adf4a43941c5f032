package layerdir

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
)

func open(t *testing.T, dir string) *Root {
	t.Helper()
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func touch(dir string) error { return os.WriteFile(filepath.Join(dir, "f"), nil, 0o600) }

func TestCreateIsWholeOrNot(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	boom := errors.New("boom")
	if err := r.Create("a", func(string) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
	if _, err := r.Path("a"); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	if err := r.Create("a", touch); err != nil {
		t.Fatal(err)
	}
	if err := r.Create("a", touch); !errdefs.IsAlreadyExists(err) {
		t.Errorf("got %v", err)
	}
	if ids, err := r.List(); err != nil || !slices.Equal(ids, []string{"a"}) {
		t.Errorf("List = %v, %v", ids, err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, newDir)); len(left) != 0 {
		t.Errorf("left in %s: %v", newDir, left)
	}
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	if err := r.Create("a", touch); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Remove("a"); err != nil {
			t.Fatal(err)
		}
	}
	if ids, err := r.List(); err != nil || len(ids) != 0 {
		t.Errorf("List = %v, %v", ids, err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, trashDir)); len(left) != 0 {
		t.Errorf("left in %s: %v", trashDir, left)
	}
}

func TestOpenCleansUp(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	if err := r.Create("a", touch); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{newDir + "/b/fs", trashDir + "/c-1/c/fs"} {
		if err := os.MkdirAll(filepath.Join(dir, p), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r = open(t, dir)
	if err := r.Create("b", touch); err != nil {
		t.Error(err)
	}
	if ids, err := r.List(); err != nil || !slices.Equal(ids, []string{"a", "b"}) {
		t.Errorf("List = %v, %v", ids, err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, trashDir)); len(left) != 0 {
		t.Errorf("left in %s: %v", trashDir, left)
	}
}

func TestBadIDs(t *testing.T) {
	r := open(t, t.TempDir())
	for _, id := range []string{"", ".", "..", "../x", "a/b", "A", ".new", "a\x00", string(make([]byte, 200))} {
		if _, err := r.Path(id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Path(%q) = %v", id, err)
		}
		if err := r.Remove(id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Remove(%q) = %v", id, err)
		}
		if err := r.Create(id, touch); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Create(%q) = %v", id, err)
		}
	}
}
