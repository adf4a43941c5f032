package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Rename gives the file from, which nobody writes to any more, the name to, in the place of what has it, and is durable when it returns nil.
func Rename(from, to string) error {
	if err := syncFile(from); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(to)
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0) // Windows flushes nothing that is open for reading
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// RenameTree gives the directory from, which nobody writes to any more, the name to, which nobody has, and is durable when it returns nil, with all
// regular files and directories in it.
func RenameTree(from, to string) error {
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return syncDir(filepath.Join(path, "x"))
		}
		if !d.Type().IsRegular() {
			return nil
		}
		return syncFile(path)
	})
	if err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(to)
}
