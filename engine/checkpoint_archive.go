package engine

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
)

const (
	maxCheckpoint      = 64 << 30 // bytes, unpacked
	maxCheckpointFiles = 100_000
)

// TarDir writes the regular files and directories below dir; CRIU's images consist of nothing else.
func TarDir(dir string, w io.Writer) error {
	tw := tar.NewWriter(w)
	root := os.DirFS(dir)
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		h, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		h.Name = name
		if err := tw.WriteHeader(h); err != nil || d.IsDir() {
			return err
		}
		f, err := root.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(tw, f)
		return err
	})
	return errors.Join(err, tw.Close())
}

// untarFiles unpacks what TarDir wrote. Names that lead out of dir and anything but files and directories are refused.
func untarFiles(r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	tr, total := tar.NewReader(r), int64(0)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		if total += h.Size; n >= maxCheckpointFiles || total > maxCheckpoint || h.Size < 0 {
			return fmt.Errorf("more than %d files or %d bytes: %w", maxCheckpointFiles, int64(maxCheckpoint), errdefs.ErrOutOfRange)
		}
		name := filepath.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o700)
		case tar.TypeReg:
			err = untarFile(root, name, tr)
		default:
			err = fmt.Errorf("%.200q is neither a file nor a directory: %w", h.Name, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return err
		}
	}
}

func untarFile(root *os.Root, name string, r io.Reader) error {
	if err := root.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
