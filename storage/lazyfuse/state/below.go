package state

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/slipwayd/slipway/internal/durable"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
)

// An answer is what the layers below show at a path of the layer. The index itself stays as it is: the numbers of its nodes are
// known to the kernel and to the cache.
type answer struct {
	Path    []byte            `json:"path"` // names need not be UTF-8
	Exists  bool              `json:"exists,omitempty"`
	Mode    fs.FileMode       `json:"mode,omitempty"`
	UID     uint32            `json:"uid,omitempty"`
	GID     uint32            `json:"gid,omitempty"`
	Seconds int64             `json:"sec,omitempty"`
	Nanos   int64             `json:"nsec,omitempty"`
	Xattrs  map[string][]byte `json:"xattrs,omitempty"`
}

func (a *answer) node() index.Node {
	n := index.Node{Mode: a.Mode, UID: a.UID, GID: a.GID, ModTime: time.Unix(a.Seconds, a.Nanos)}
	for k, v := range a.Xattrs {
		if n.Xattrs == nil {
			n.Xattrs = map[string]string{}
		}
		n.Xattrs[k] = string(v)
	}
	return n
}

// Settled says whether the layer knows what it lies on.
func Settled(dir string) (bool, error) {
	_, err := os.Lstat(filepath.Join(dir, belowFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Settle asks the layers below for all that the layer leaves to them, as index.Settle does, and keeps the answers, durably.
func Settle(dir string, l Layer, below func(path string) (index.Node, bool, error)) error {
	x, err := rawIndex(dir, l)
	if err != nil {
		return err
	}
	answers := []answer{}
	_, err = x.Settle(func(path string) (index.Node, bool, error) {
		n, exists, err := below(path)
		if err != nil {
			return n, exists, err
		}
		a := answer{Path: []byte(path), Exists: exists, Mode: n.Mode, UID: n.UID, GID: n.GID}
		if n.Mode.IsDir() {
			a.Seconds, a.Nanos = n.ModTime.Unix(), int64(n.ModTime.Nanosecond())
		}
		for k, v := range n.Xattrs {
			if a.Xattrs == nil {
				a.Xattrs = map[string][]byte{}
			}
			a.Xattrs[k] = []byte(v)
		}
		answers = append(answers, a)
		return n, exists, nil
	})
	if err != nil {
		return err
	}
	data, err := json.Marshal(answers)
	if err != nil {
		return err
	}
	return durable.Replace(filepath.Join(dir, belowFile), data)
}
