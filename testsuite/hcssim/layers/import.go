package layers

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
)

// hives are the registry files that a base layer must have, deltas what a layer on others may change of them.
var (
	hives  = []string{"DEFAULT", "SAM", "SECURITY", "SOFTWARE", "SYSTEM"}
	deltas = []string{"DefaultUser_Delta", "Sam_Delta", "Security_Delta", "Software_Delta", "System_Delta"}
)

// ProcessBase makes a base layer of a folder with Files: what containers start from is made of its registry.
func (s *Store) ProcessBase(path string) error {
	for _, h := range hives {
		if _, err := os.Stat(filepath.Join(path, filesDir, "Windows", "System32", "config", h)); err != nil {
			return hresult.New(hresult.FileNotFound, "a base layer needs %s", filepath.Join(filesDir, "Windows", "System32", "config", h))
		}
	}
	if err := os.MkdirAll(filepath.Join(path, hivesDir), 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{"blank-base.vhdx": "vhdxfile", "blank.vhdx": "vhdxfile", "layout": "vhd-with-hives\n"} {
		if err := os.WriteFile(filepath.Join(path, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// ProcessUtility makes a folder with a virtual machine's files ready to boot.
func (s *Store) ProcessUtility(path string) error {
	if err := exists(filepath.Join(path, filesDir)); err != nil {
		return err
	}
	for _, name := range []string{"SystemTemplateBase.vhdx", "SystemTemplate.vhdx"} {
		if err := os.WriteFile(filepath.Join(path, name), []byte("vhdxfile"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Import makes a layer on parents of a folder in the transport format: each file below Files begins with its attributes and
// goes on with its backup streams, those of a directory D are in D.$wcidirs$ beside it; Hives has the changes of the registry.
func (s *Store) Import(path, from string, parents []string) error {
	if len(parents) == 0 {
		return hresult.New(hresult.InvalidParameter, "a base layer is not imported")
	}
	for _, p := range append([]string{from}, parents...) {
		if err := exists(p); err != nil {
			return err
		}
	}
	for _, h := range hives {
		delta := filepath.Join(from, hivesDir, h[:1]+strings.ToLower(h[1:]))
		_, err := os.Stat(delta + "_Delta")
		if errors.Is(err, fs.ErrNotExist) && h == "DEFAULT" {
			_, err = os.Stat(delta + "User_Delta") // as Windows names it
		}
		if err != nil {
			return hresult.New(hresult.FileNotFound, "the layer has no %s_Delta in Hives", h)
		}
	}
	if _, err := os.Stat(filepath.Join(path, filesDir)); err == nil {
		return hresult.New(hresult.AlreadyExists, "'%s' is a layer already", path)
	}
	m, err := readMetadata(parents[0])
	if err != nil {
		return err
	}
	below, err := readView(parents...)
	if err != nil {
		return err
	}
	if err := below.expand(path, from); err != nil {
		return err
	}
	if err := readTombstones(from, func(rel string) error { return os.RemoveAll(filepath.Join(path, filesDir, rel)) }); err != nil {
		return err
	}
	i := importer{from: from, to: path, m: m}
	if err := filepath.WalkDir(from, i.entry); err != nil {
		return err
	}
	return m.write(path)
}

type importer struct {
	from, to string
	m        metadata
	n        int
}

func (i *importer) entry(path string, d fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(i.from, path)
	if err != nil || rel == "." || rel == tombstones {
		return err
	}
	if i.n++; i.n > maxEntries {
		return hresult.New(hresult.InvalidData, "a layer with more than %d files", maxEntries)
	}
	isMeta := strings.HasSuffix(rel, dirSuffix)
	root, inside, below := strings.Cut(strings.TrimSuffix(rel, dirSuffix), string(filepath.Separator))
	if root != filesDir && root != hivesDir && root != utilityDir {
		return hresult.New(hresult.InvalidData, "'%s' belongs to no part of a layer", rel)
	}
	if err := checkPath(strings.TrimSuffix(rel, dirSuffix)); err != nil {
		return err
	}
	to := filepath.Join(i.to, rel)
	switch {
	case d.IsDir():
		if fi, err := os.Lstat(to); err == nil && !fi.IsDir() {
			if err := os.Remove(to); err != nil {
				return err
			}
		}
		return os.MkdirAll(to, 0o755)
	case isMeta && !below:
		return nil // the root of a part keeps what its folder has
	case root == filesDir && isMeta:
		return i.file(path, "", inside)
	case root == filesDir:
		return i.file(path, to, inside)
	}
	return copyFile(path, to)
}

// file takes one file's transport format apart; to is "" for a directory's.
func (i *importer) file(path, to, rel string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	r := bufio.NewReader(in)
	var attributes uint32
	if err := binary.Read(r, binary.LittleEndian, &attributes); err != nil {
		return hresult.New(hresult.InvalidData, "'%s' has no attributes", rel)
	}
	w := io.Writer(refuse{})
	var out *os.File
	if to != "" {
		if err := os.RemoveAll(to); err != nil { // a link to the parent's
			return err
		}
		if out, err = os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644); err != nil {
			return err
		}
		w = out
	}
	rest, err := splitStreams(r, w)
	if out != nil {
		err = errors.Join(err, out.Close())
	}
	if err != nil {
		return err
	}
	i.m[name(rel)] = fileMetadata{Attributes: attributes, Streams: rest}
	if to == "" {
		return nil
	}
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	return os.Chtimes(to, fi.ModTime(), fi.ModTime())
}

// refuse takes no data: directories have none.
type refuse struct{}

func (refuse) Write([]byte) (int, error) {
	return 0, hresult.New(hresult.InvalidData, "a directory with data")
}

const tombstonesHead = "\xef\xbb\xbfVersion 1.0"

// readTombstones calls f with each path, below Files, that a layer takes away; without the file there is none.
func readTombstones(layer string, f func(rel string) error) error {
	b, err := os.Open(filepath.Join(layer, tombstones))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer b.Close()
	lines := bufio.NewScanner(b)
	if !lines.Scan() || strings.TrimSuffix(lines.Text(), "\r") != tombstonesHead {
		return hresult.New(hresult.InvalidData, "%s has no version", tombstones)
	}
	for lines.Scan() {
		rel, ok := strings.CutPrefix(strings.TrimSuffix(lines.Text(), "\r"), `\`)
		rel = strings.ReplaceAll(rel, `\`, string(filepath.Separator))
		if !ok {
			return hresult.New(hresult.InvalidData, "'%s' in %s does not begin with a backslash", lines.Text(), tombstones)
		}
		if err := checkPath(rel); err != nil {
			return err
		}
		if err := f(rel); err != nil {
			return err
		}
	}
	return lines.Err()
}
