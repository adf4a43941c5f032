// Package durable writes small files so that a reader, also after a power failure, finds the old one or the new one and nothing
// between.
//
// It imports nothing of Slipway. What a crash leaves: a file PATH.new, which the next writer of PATH overwrites.
package durable

import (
	"errors"
	"os"
)

// Replace makes data the content of the file at path, which only its owner may read, and is durable when it returns nil. Of two
// callers for one path at a time, one may fail.
func Replace(path string, data []byte) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(path)
}
