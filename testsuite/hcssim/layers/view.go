package layers

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
)

// view is a layer with those below it, the topmost first. A directory in which a layer changed nothing is a placeholder in it: empty, and what is
// in it is what the next layer has there. So it is deleted as a file is, which hcsshim relies on when a layer hides a directory.
type view []viewLayer

type viewLayer struct {
	files        string
	placeholders map[string]bool // by name
}

func readView(layers ...string) (view, error) {
	v := make(view, len(layers))
	for i, l := range layers {
		var names []string
		b, err := os.ReadFile(filepath.Join(l, placeholdersFile))
		if err == nil {
			err = json.Unmarshal(b, &names)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		v[i] = viewLayer{filepath.Join(l, filesDir), map[string]bool{}}
		for _, n := range names {
			v[i].placeholders[n] = true
		}
	}
	return v, nil
}

// viewEntry is a file or directory of a view.
type viewEntry struct {
	fs.DirEntry
	rel   string // below Files
	path  string // where it is
	layer int    // whose it is; what is below a directory is this one's, or those' below it
}

// list answers what is in a directory; all there is nothing where the view ends.
func (v view) list(rel string, layer int) ([]viewEntry, error) {
	for layer < len(v) && v[layer].placeholders[name(rel)] {
		layer++
	}
	if layer == len(v) {
		return nil, hresult.New(hresult.InvalidData, "'%s' is a placeholder of nothing", rel)
	}
	dir := filepath.Join(v[layer].files, rel)
	found, err := os.ReadDir(dir)
	if err != nil && (rel != "." || !errors.Is(err, fs.ErrNotExist)) {
		return nil, err
	}
	entries := make([]viewEntry, len(found))
	for i, e := range found {
		entries[i] = viewEntry{e, filepath.Join(rel, e.Name()), filepath.Join(dir, e.Name()), layer}
	}
	return entries, nil
}

// walk calls f with all that is in a directory, each directory before what is in it, unless f answers fs.SkipDir.
func (v view) walk(rel string, layer int, n *int, f func(viewEntry) error) error {
	entries, err := v.list(rel, layer)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if *n++; *n > maxEntries {
			return hresult.New(hresult.InvalidData, "a layer with more than %d files", maxEntries)
		}
		switch err := f(e); {
		case err == fs.SkipDir:
			continue
		case err != nil:
			return err
		case !e.IsDir():
			continue
		}
		if err := v.walk(e.rel, e.layer, n, f); err != nil {
			return err
		}
	}
	return nil
}

// each is walk from the root.
func (v view) each(f func(viewEntry) error) error { return v.walk(".", 0, new(int), f) }

// entries answers all of a view by its path.
func (v view) entries() (map[string]viewEntry, error) {
	all := map[string]viewEntry{}
	return all, v.each(func(e viewEntry) error { all[name(e.rel)] = e; return nil })
}

// copyTo makes a directory with all of a view's files in it.
func (v view) copyTo(dst string) error {
	if err := os.MkdirAll(dst, 0o755); err != nil {
		return err
	}
	return v.each(func(e viewEntry) error {
		to := filepath.Join(dst, e.rel)
		if e.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		return copyFile(e.path, to)
	})
}

// expand makes the layer at path look like v wherever the layer in the transport format at from has a directory: files are links to v's, and
// directories that from has not are placeholders.
func (v view) expand(path, from string) error {
	var placeholders []string
	root := filepath.Join(path, filesDir)
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	err := v.each(func(e viewEntry) error {
		to := filepath.Join(root, e.rel)
		own, err := os.Lstat(filepath.Join(from, filesDir, e.rel))
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		case !e.IsDir() && own != nil && own.IsDir():
			return nil
		case !e.IsDir():
			return os.Link(e.path, to)
		case own == nil:
			placeholders = append(placeholders, name(e.rel))
		case !own.IsDir():
			return fs.SkipDir
		}
		if err := os.Mkdir(to, 0o755); err != nil || own != nil {
			return err
		}
		return fs.SkipDir
	})
	if err != nil {
		return err
	}
	slices.Sort(placeholders)
	b, err := json.Marshal(placeholders)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(path, placeholdersFile), b, 0o644)
}
