package windowsfilter

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"path/filepath"

	"github.com/Microsoft/go-winio"
	"github.com/Microsoft/go-winio/backuptar"
	"github.com/Microsoft/hcsshim"
)

// exportReadOnly writes the tar of a layer that has no disk, which can neither be activated nor prepared.
func exportReadOnly(ctx context.Context, w io.Writer, dir string, parents []string) (err error) {
	r, err := hcsshim.NewLayerReader(info(dir), id(dir), parents)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	x := exporter{r: r, out: tar.NewWriter(w), first: map[winio.FileIDInfo]string{}}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		switch err := x.next(); {
		case err == io.EOF:
			return x.out.Close()
		case err != nil:
			return err
		}
	}
}

type exporter struct {
	r     hcsshim.LayerReader
	out   *tar.Writer
	first map[winio.FileIDInfo]string // the first name of files that have several
}

// next writes the entry of one file; io.EOF after the last.
func (x *exporter) next() error {
	name, size, info, err := x.r.Next()
	if err != nil {
		return err
	}
	if info == nil { // hidden
		hide := filepath.Join(filepath.Dir(name), whiteout+filepath.Base(name))
		return x.out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: filepath.ToSlash(hide), Format: tar.FormatPAX})
	}
	names, file, err := x.r.LinkInfo()
	if err != nil {
		return err
	}
	if first, again := x.first[*file]; again {
		h := backuptar.BasicInfoHeader(name, 0, info)
		h.Typeflag, h.Linkname, h.Mode = tar.TypeLink, first, 0o644
		return x.out.WriteHeader(h)
	}
	if names > 1 && info.FileAttributes&attributeDirectory == 0 {
		x.first[*file] = filepath.ToSlash(name)
	}
	return backuptar.WriteTarFileFromBackupStream(x.out, x.r, name, size, info)
}
