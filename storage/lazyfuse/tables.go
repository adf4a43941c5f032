package lazyfuse

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/storage/lazyfuse/index"
)

// tables keeps the tables of contents of layers that were pulled, for when they are pulled again: a directory of files, each named by
// the layer's digest and what its descriptor promises. A file is a SHA-256 of what follows, a line of JSON (index.Table), and the table as
// it is in the blob. Sums are checked each time, so nothing need be durable, and what is damaged is fetched anew.
type tables struct {
	dir   string
	limit int64 // bytes of all files; those that were not used for longest go
}

func (t tables) path(d ocispec.Descriptor) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s %d\n", d.Digest, d.Size)
	for _, k := range slices.Sorted(maps.Keys(d.Annotations)) {
		fmt.Fprintf(sum, "%q %q\n", k, d.Annotations[k])
	}
	return filepath.Join(t.dir, hex.EncodeToString(sum.Sum(nil)))
}

// get answers the index of a layer, if its table is kept.
func (t tables) get(d ocispec.Descriptor) (*index.Index, bool) {
	name := t.path(d)
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, false
	}
	x, err := readTable(d, data)
	if err != nil {
		_ = os.Remove(name)
		return nil, false
	}
	now := time.Now()
	_ = os.Chtimes(name, now, now) // at worst it goes too early
	return x, true
}

func readTable(d ocispec.Descriptor, data []byte) (*index.Index, error) {
	sum := data[:min(len(data), sha256.Size)]
	data = data[len(sum):]
	if want := sha256.Sum256(data); !bytes.Equal(sum, want[:]) {
		return nil, errors.New("it is damaged")
	}
	head, table, _ := bytes.Cut(data, []byte("\n"))
	var at index.Table
	if err := json.Unmarshal(head, &at); err != nil {
		return nil, err
	}
	if !vouched(d, at) {
		return nil, errors.New("it is another layer's")
	}
	return at.Parse(table, d.Size, index.Limits{})
}

// vouched says whether the layer's descriptor names the table's digest.
func vouched(d ocispec.Descriptor, at index.Table) bool {
	for _, v := range d.Annotations {
		if at.Digest != "" && v == string(at.Digest) {
			return true
		}
	}
	return false
}

// put keeps a table that was checked.
func (t tables) put(d ocispec.Descriptor, at index.Table, table []byte) error {
	head, err := json.Marshal(at)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(t.dir, "new-")
	if err != nil {
		return err
	}
	data := append(append(head, '\n'), table...)
	sum := sha256.Sum256(data)
	_, err = f.Write(append(sum[:], data...))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), t.path(d))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return t.trim()
}

// trim removes the files that were not used for longest, and with them what a crash left.
func (t tables) trim() error {
	entries, err := os.ReadDir(t.dir)
	if err != nil {
		return err
	}
	var files []os.FileInfo
	sum := int64(0)
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			files = append(files, info)
			sum += info.Size()
		}
	}
	slices.SortFunc(files, func(a, b os.FileInfo) int {
		return cmp.Or(a.ModTime().Compare(b.ModTime()), cmp.Compare(a.Name(), b.Name()))
	})
	for _, f := range files {
		if sum <= t.limit {
			break
		}
		if err := os.Remove(filepath.Join(t.dir, f.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		sum -= f.Size()
	}
	return nil
}
