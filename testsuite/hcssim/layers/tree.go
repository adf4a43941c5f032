package layers

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
)

// maxEntries bounds a layer: Windows' own largest has under 200,000 files.
const maxEntries = 500_000

// copyTree makes dst like src, with each file by link: copyFile, or os.Link for files that nobody writes to.
func copyTree(src, dst string, file func(src, dst string) error) error {
	if _, err := os.Stat(src); errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(dst, 0o755)
	}
	n := 0
	return filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if n++; n > maxEntries {
			return hresult.New(hresult.InvalidData, "'%s' has more than %d files", src, maxEntries)
		}
		rel, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		to := filepath.Join(dst, rel)
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		return file(path, to)
	})
}

func copyFile(src, dst string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	return os.Chtimes(dst, fi.ModTime(), fi.ModTime())
}

// metadata is what the file system here may not keep, by path below Files with backslashes, in small letters.
type metadata map[string]fileMetadata

type fileMetadata struct {
	Attributes uint32
	Streams    []byte // backup streams but the data
}

func readMetadata(layer string) (metadata, error) {
	m := metadata{}
	b, err := os.ReadFile(filepath.Join(layer, metadataFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, err
	}
	return m, json.Unmarshal(b, &m)
}

func (m metadata) write(layer string) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(layer, metadataFile), b, 0o644)
}

func name(rel string) string {
	return strings.ToLower(strings.ReplaceAll(rel, string(filepath.Separator), `\`))
}

// reserved are the names that mean devices, whatever their extension.
var reserved = map[string]bool{"con": true, "prn": true, "aux": true, "nul": true, "conin$": true, "conout$": true}

// CheckName says what is wrong with one part of a path, by the rules of Win32: what no program could open later.
func CheckName(part string) error {
	base, _, _ := strings.Cut(strings.ToLower(part), ".")
	base = strings.TrimRight(base, " ")
	switch {
	case part == "" || part == "." || part == "..":
	case len(part) > 255:
	case strings.ContainsAny(part, `<>:"/\|?*`) || strings.ContainsFunc(part, func(r rune) bool { return r < ' ' }):
	case strings.HasSuffix(part, ".") || strings.HasSuffix(part, " "):
	case reserved[base]:
	case len(base) == 4 && (strings.HasPrefix(base, "com") || strings.HasPrefix(base, "lpt")) && base[3] >= '1' && base[3] <= '9':
	default:
		return nil
	}
	return hresult.New(hresult.InvalidName, "'%s' is no name of a file", part)
}

func checkPath(rel string) error {
	for part := range strings.SplitSeq(filepath.ToSlash(rel), "/") {
		if err := CheckName(part); err != nil {
			return err
		}
	}
	return nil
}
