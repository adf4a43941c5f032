package changeset

import (
	"bytes"
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/storage"
)

// Usage adds up what dir and everything below it takes on disk. A file with several names counts once.
func Usage(ctx context.Context, dir string) (u storage.Usage, err error) {
	fd, err := unix.Open(dir, dirFlags, 0)
	if err != nil {
		return u, fmt.Errorf("cannot open %q: %w", dir, kind(err))
	}
	defer unix.Close(fd)
	type inode struct{ dev, ino uint64 }
	seen := map[inode]struct{}{}
	add := func(st *unix.Stat_t) {
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			key := inode{st.Dev, st.Ino}
			if _, again := seen[key]; again {
				return
			}
			seen[key] = struct{}{}
		}
		u.Inodes++
		u.Size += st.Blocks * 512
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return u, err
	}
	add(&st)
	err = usageBelow(ctx, fd, add)
	return u, err
}

func usageBelow(ctx context.Context, fd int, add func(*unix.Stat_t)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	names, err := readNames(fd)
	if err != nil {
		return err
	}
	for _, n := range names {
		var st unix.Stat_t
		switch err := unix.Fstatat(fd, n, &st, unix.AT_SYMLINK_NOFOLLOW); {
		case err == unix.ENOENT: // a container may be at work
			continue
		case err != nil:
			return err
		}
		add(&st)
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		sub, err := unix.Openat(fd, n, dirFlags|unix.O_NOFOLLOW, 0)
		if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {
			continue
		}
		if err != nil {
			return err
		}
		err = usageBelow(ctx, sub, add)
		unix.Close(sub)
		if err != nil {
			return err
		}
	}
	return nil
}

// Sync makes everything below dir durable, by syncing the whole file system it is on: one call, where a layer has
// thousands of files.
func Sync(dir string) error {
	fd, err := unix.Open(dir, dirFlags, 0)
	if err != nil {
		return fmt.Errorf("cannot open %q: %w", dir, kind(err))
	}
	defer unix.Close(fd)
	if err := unix.Syncfs(fd); err != nil {
		return fmt.Errorf("cannot sync the file system of %q: %w", dir, err)
	}
	return nil
}

// indexLine answers where the value of a line "KEY value" begins in data, or -1.
func indexLine(data []byte, key string) int {
	if i := bytes.Index(data, []byte("\n"+key)); i >= 0 {
		return i + 1 + len(key)
	}
	return -1
}
