package layers

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
)

// Export writes what a layer or scratch has that its parents don't into a folder, in the transport format.
func (s *Store) Export(path, to string, parents []string) error {
	if len(parents) == 0 {
		return hresult.New(hresult.InvalidParameter, "a base layer is not exported")
	}
	for _, p := range append([]string{path}, parents...) {
		if err := exists(p); err != nil {
			return err
		}
	}
	below, err := readView(parents...)
	if err != nil {
		return err
	}
	x := exporter{to: filepath.Join(to, filesDir), made: map[string]bool{}}
	own, err := s.viewOf(path, below)
	if err != nil {
		return err
	}
	if x.is, err = own.entries(); err != nil {
		return err
	}
	if x.was, err = below.entries(); err != nil {
		return err
	}
	if x.below, err = readMetadata(parents[0]); err != nil {
		return err
	}
	if x.m, err = readMetadata(path); err != nil {
		return err
	}
	if own[0].files == below[0].files {
		x.m = x.below
	}
	if err := x.directory("."); err != nil {
		return err
	}
	for _, n := range slices.Sorted(maps.Keys(x.is)) {
		if err := x.entry(x.is[n]); err != nil {
			return err
		}
	}
	if err := x.missing(to); err != nil {
		return err
	}
	return exportRest(path, to)
}

// viewOf is what a layer looks like on others; a scratch that was never prepared looks like these.
func (s *Store) viewOf(path string, below view) (view, error) {
	if needDisk(path) != nil {
		own, err := readView(path)
		return append(own, below...), err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := os.Stat(filepath.Join(path, metadataFile)); err != nil {
		return below, nil
	}
	if m := s.mounts[key(path)]; m != nil {
		return view{{files: s.folder(m)}}, nil
	}
	return view{{files: filepath.Join(path, scratchFiles)}}, nil
}

// exportRest writes the parts of a layer that are plain: the registry's changes, empty for a scratch, and the virtual machine.
func exportRest(path, to string) error {
	if err := os.MkdirAll(filepath.Join(to, hivesDir), 0o755); err != nil {
		return err
	}
	for _, d := range deltas {
		delta := filepath.Join(hivesDir, d)
		err := copyFile(filepath.Join(path, delta), filepath.Join(to, delta))
		if errors.Is(err, fs.ErrNotExist) {
			err = os.WriteFile(filepath.Join(to, delta), []byte("regf"), 0o644)
		}
		if err != nil {
			return err
		}
	}
	if vm := filepath.Join(path, utilityDir, filesDir); exists(vm) == nil {
		return copyTree(vm, filepath.Join(to, utilityDir, filesDir), copyFile)
	}
	return nil
}

type exporter struct {
	to       string
	is, was  map[string]viewEntry
	m, below metadata
	made     map[string]bool // directories that are in the export
}

func (x *exporter) entry(is viewEntry) error {
	was, there := x.was[name(is.rel)]
	sameKind := there && was.IsDir() == is.IsDir()
	sameMeta := sameKind && x.m.equal(x.below, is.rel)
	if is.IsDir() {
		if sameMeta {
			return nil
		}
		return x.directory(is.rel)
	}
	if sameMeta {
		same, err := sameFile(is.path, was.path)
		if err != nil || same {
			return err
		}
	}
	if err := x.directory(filepath.Dir(is.rel)); err != nil {
		return err
	}
	return x.file(is.path, is.rel)
}

func (m metadata) equal(other metadata, rel string) bool {
	a, b := m[name(rel)], other[name(rel)]
	return a.Attributes == b.Attributes && bytes.Equal(a.Streams, b.Streams)
}

func sameFile(path, before string) (bool, error) {
	is, err := os.Lstat(path)
	if err != nil {
		return false, err
	}
	was, err := os.Lstat(before)
	if err != nil {
		return false, err
	}
	if os.SameFile(is, was) {
		return true, nil
	}
	if is.Size() != was.Size() || !is.ModTime().Equal(was.ModTime()) {
		return false, nil
	}
	a, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := os.Open(before)
	if err != nil {
		return false, err
	}
	defer b.Close()
	return sameBytes(bufio.NewReader(a), bufio.NewReader(b))
}

func sameBytes(a, b io.Reader) (bool, error) {
	var x, y [8192]byte
	for {
		n, err := io.ReadFull(a, x[:])
		k, err2 := io.ReadFull(b, y[:])
		if !bytes.Equal(x[:n], y[:k]) {
			return false, nil
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return err2 == io.EOF || err2 == io.ErrUnexpectedEOF, nil
		}
		if err = errors.Join(err, err2); err != nil {
			return false, err
		}
	}
}

// directory makes a directory and those above it, with what is to be said about them beside them.
func (x *exporter) directory(rel string) error {
	if x.made[rel] {
		return nil
	}
	x.made[rel] = true
	if rel == "." {
		return os.MkdirAll(x.to, 0o755)
	}
	if err := x.directory(filepath.Dir(rel)); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(x.to, rel), 0o755); err != nil {
		return err
	}
	return x.write(filepath.Join(x.to, rel)+dirSuffix, rel, 0x10, nil, x.is[name(rel)].path) // FILE_ATTRIBUTE_DIRECTORY
}

func (x *exporter) file(path, rel string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	return x.write(filepath.Join(x.to, rel), rel, 0x20, in, path) // FILE_ATTRIBUTE_ARCHIVE
}

// write puts attributes, the streams that were kept, and the data into a file with the time of path.
func (x *exporter) write(to, rel string, attributes uint32, data *os.File, path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	meta, ok := x.m[name(rel)]
	if ok {
		attributes = meta.Attributes
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = out.Write(append(binary.LittleEndian.AppendUint32(nil, attributes), meta.Streams...))
	if err == nil && data != nil {
		if _, err = out.Write(dataHeader(fi.Size())); err == nil {
			_, err = io.CopyN(out, data, fi.Size())
		}
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	return os.Chtimes(to, fi.ModTime(), fi.ModTime())
}

// missing lists what the parent has and the layer doesn't: the topmost of each, as Windows does.
func (x *exporter) missing(to string) error {
	var list strings.Builder
	list.WriteString(tombstonesHead + "\n")
	for _, n := range slices.Sorted(maps.Keys(x.was)) {
		was := x.was[n]
		above, ok := x.is[name(filepath.Dir(was.rel))]
		if _, is := x.is[n]; is || filepath.Dir(was.rel) != "." && (!ok || !above.IsDir()) {
			continue // it is there, or gone with its directory
		}
		if err := x.directory(filepath.Dir(was.rel)); err != nil {
			return err
		}
		list.WriteString(`\` + strings.ReplaceAll(was.rel, string(filepath.Separator), `\`) + "\n")
	}
	return os.WriteFile(filepath.Join(to, tombstones), []byte(list.String()), 0o644)
}
