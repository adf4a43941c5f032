package metadata

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// Options of Open; the zero value is fit for a daemon.
type Options struct {
	LockTimeout time.Duration // how long to wait for another process to let go of the file; 0 means 1 s
	Isolated    bool          // namespaces see each other's blobs only where they are labelled shareable
}

// DB is an open metadata file. It is safe for concurrent use and starts no goroutine.
type DB struct {
	bolt    *bbolt.DB
	options Options

	writer  writer
	reaper  reaper
	tracker tracker
	collect chan struct{} // holds one token: one collection at a time
}

// Open opens the file at path, creating it when there is none, and brings its schema up to date. Unavailable when another
// process has it open, FailedPrecondition when a newer Slipway or another program wrote it, DataLoss when it is damaged.
func Open(path string, o Options) (*DB, error) {
	if o.LockTimeout == 0 {
		o.LockTimeout = time.Second
	}
	if err := inspect(path, o.LockTimeout); err != nil {
		return nil, err
	}
	b, err := openBolt(path, o.LockTimeout, false)
	if err != nil {
		return nil, err
	}
	err = migrate(b, migrations)
	if err == nil {
		err = complete(b)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open metadata %s: %w", path, err), b.Close())
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make metadata %s durable: %w", path, err), b.Close())
	}
	db := &DB{bolt: b, options: o, collect: make(chan struct{}, 1)}
	db.writer.idle.L = &db.writer.mu
	return db, nil
}

func openBolt(path string, timeout time.Duration, readOnly bool) (*bbolt.DB, error) {
	b, err := openUnlessDamaged(path, &bbolt.Options{
		Timeout:  timeout,
		ReadOnly: readOnly,
		// The list of free pages is found again at start, instead of being written with every commit: after a big
		// deletion it would be the largest part of each.
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
		// Growing the map waits for all readers, so it begins larger than the file will be.
		InitialMmapSize: initialMapSize,
		NoStatistics:    true,
	})
	switch {
	case err == nil:
		return b, nil
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("cannot open metadata %s: another daemon uses it; stop that one or choose another --root: %w", path, errdefs.ErrUnavailable)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return nil, damaged(path, err)
	default:
		return nil, fmt.Errorf("cannot open metadata %s: %w", path, err)
	}
}

// openUnlessDamaged makes an error of a panic and closes the file, which bbolt would leave locked.
func openUnlessDamaged(path string, o *bbolt.Options) (b *bbolt.DB, err error) {
	var file *os.File
	o.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		var err error
		file, err = os.OpenFile(name, flag, mode)
		return file, err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = errors.Join(damaged(path, fmt.Errorf("%v", r)), file.Close())
		}
	}()
	return bbolt.Open(path, 0o600, o)
}

// initialMapSize is address space, not memory; on Windows it would be the size of the file.
var initialMapSize = map[bool]int{true: 0, false: 1 << 30}[runtime.GOOS == "windows"]

func damaged(path string, err error) error {
	return fmt.Errorf("metadata %s is damaged (%w): restore a copy of it, or move it away to start without images and containers: %w",
		path, err, errdefs.ErrDataLoss)
}

// guard runs fn and makes an error of touching the map where the file has no pages or the disk fails. Other panics go on.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		if _, fault := r.(interface{ Addr() uintptr }); !fault {
			panic(r)
		}
		err = fmt.Errorf("cannot read the metadata file: %v: %w", r, errdefs.ErrDataLoss)
	}()
	return fn()
}

// Close waits for transactions that run and fails those that come later.
func (db *DB) Close() error {
	db.writer.close()
	if err := db.bolt.Close(); err != nil {
		return fmt.Errorf("cannot close metadata: %w", err)
	}
	return nil
}

// View runs fn on a state of the file that does not change meanwhile. It waits for no writer, and none waits for it. fn must not
// keep tx, nor call Update: pages that fn may still see are not used again before it returns.
func (db *DB) View(ctx context.Context, fn func(*Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return guard(func() error {
		b, err := db.bolt.Begin(false)
		if err != nil {
			return unavailable(err)
		}
		defer b.Rollback() //nolint:errcheck // of a read transaction: it cannot fail
		return fn(&Tx{db: db, bolt: b, writes: new(int), now: time.Now().UTC()})
	})
}

func unavailable(err error) error {
	return fmt.Errorf("metadata is closed or cannot be written: %w: %w", err, errdefs.ErrUnavailable)
}

func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced there, NTFS journals them
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
