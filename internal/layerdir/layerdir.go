// Package layerdir keeps one directory per layer below a root, for drivers of package storage that have no other record.
//
// It owns the names in that root: ID for layers, ".new" for those being made and ".trash" for those being deleted. What
// is inside a layer is the driver's. It imports no driver.
//
// What a crash leaves: a layer is there whole or not at all; leftovers in .new and .trash are deleted by the next Open.
package layerdir

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
)

const (
	newDir   = ".new"
	trashDir = ".trash"
	maxID    = 128
)

// Root is a directory of layers. It belongs to one driver of one process; methods are safe for concurrent use on
// different layers.
type Root struct {
	dir     string
	destroy func(path string) error
}

// Open makes dir if it is not there, readable by root only, and deletes what a crash left half made or half deleted.
func Open(dir string) (*Root, error) { return OpenFor(dir, os.RemoveAll) }

// OpenFor opens a directory of layers whose directories are deleted by destroy, because it takes more than os.RemoveAll.
func OpenFor(dir string, destroy func(path string) error) (*Root, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	r := &Root{dir, destroy}
	for _, sub := range []string{newDir, trashDir} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("cannot make a directory for layers: %w", err)
		}
		left, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			return nil, fmt.Errorf("cannot clean up after a crash: %w", err)
		}
		for _, e := range left {
			if err := destroy(filepath.Join(dir, sub, e.Name())); err != nil {
				return nil, fmt.Errorf("cannot clean up after a crash: %w", err)
			}
		}
	}
	return r, nil
}

// Dir answers the root's absolute path.
func (r *Root) Dir() string { return r.dir }

// Path answers where layer id is. InvalidArgument for what cannot be an id, NotFound when there is no such layer.
func (r *Root) Path(id string) (string, error) {
	p, err := r.name(id)
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(p); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("layer %s: %w", id, errdefs.ErrNotFound)
	} else if err != nil {
		return "", err
	}
	return p, nil
}

func (r *Root) name(id string) (string, error) {
	if !valid(id) {
		return "", fmt.Errorf("layer id %.200q is not [a-z0-9]+: %w", id, errdefs.ErrInvalidArgument)
	}
	return filepath.Join(r.dir, id), nil
}

func valid(id string) bool {
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return id != "" && len(id) <= maxID
}

// Create makes layer id from what fill puts into a new directory, and nothing if fill fails. AlreadyExists when there is
// such a layer. It is not durable.
func (r *Root) Create(id string, fill func(dir string) error) (err error) {
	final, err := r.name(id)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(final); err == nil {
		return fmt.Errorf("layer %s: %w", id, errdefs.ErrAlreadyExists)
	}
	stage := filepath.Join(r.dir, newDir, id)
	if err := os.Mkdir(stage, 0o700); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("layer %s is being made: %w", id, errdefs.ErrUnavailable)
	} else if err != nil {
		return fmt.Errorf("cannot make layer %s: %w", id, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.destroy(stage))
		}
	}()
	if err := fill(stage); err != nil {
		return fmt.Errorf("cannot make layer %s: %w", id, err)
	}
	return os.Rename(stage, final)
}

// Remove deletes layer id. It is nil when there is none.
func (r *Root) Remove(id string) error {
	p, err := r.name(id)
	if err != nil {
		return err
	}
	// A rename takes no space: a full disk can be emptied. The name is new, for what was deleted under this id before may be there.
	trash := filepath.Join(r.dir, trashDir, id+"-"+rand.Text())
	if err := os.Rename(p, trash); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("cannot remove layer %s: %w", id, err)
	}
	if err := r.destroy(trash); err != nil {
		return fmt.Errorf("cannot delete the files of layer %s, the next start tries again: %w", id, err)
	}
	return nil
}

// List answers the ids of all layers, sorted.
func (r *Root) List() ([]string, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list layers: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if valid(e.Name()) && e.IsDir() {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}
