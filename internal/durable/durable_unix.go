//go:build !windows

package durable

import (
	"errors"
	"os"
	"path/filepath"
)

// syncDir makes the name at path durable.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
