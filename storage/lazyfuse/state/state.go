// Package state is what the disk says of a lazy layer: one directory that the driver writes and the FUSE server reads.
//
//	layer.json   where the blob is, how to get at it, where the index came from; for root alone, it may hold secrets
//	index        what is where in the blob, as index.Marshal writes it; of a layer of kind index.Stream nothing is known
//	below        what the layers below have that matters to this one; not there until they are known
//	blob         the whole blob, once it is here: what is missing comes from it, not from a registry
//
// It imports package index beside it. What a crash leaves: a file is whole or not there; the driver makes the directory visible
// when all of it is durable.
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/internal/durable"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
)

// Names of files in a layer's directory.
const (
	layerFile = "layer.json"
	indexFile = "index"
	belowFile = "below"
	BlobFile  = "blob"
)

// Files is where the layer's files are when it has arrived, beside dir: a directory then, and a link until then.
func Files(dir string) string { return filepath.Join(filepath.Dir(dir), "fs") }

// maxFile bounds what is read of a layer's directory, in bytes.
const maxFile = 256 << 20

// Layer is layer.json.
type Layer struct {
	storage.Source
	Own    bool       `json:"own,omitempty"` // this host made the index and checked the layer by its digest
	Kind   index.Kind `json:"kind"`
	Origin string     `json:"origin,omitempty"`
	// Document is the digest of the index: it names files that have no digests of their own.
	Document   digest.Digest `json:"document"`
	Usage      storage.Usage `json:"usage"`
	FileBytes  int64         `json:"fileBytes"` // of all files, as they are long
	AttachedAt time.Time     `json:"attachedAt"`
}

// Write makes the directory dir of a layer that is not settled yet. It is not durable.
func Write(dir string, l Layer, document []byte) error {
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if l.Kind == index.Stream {
		return os.WriteFile(filepath.Join(dir, layerFile), data, 0o600)
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, layerFile), data, 0o600),
		os.WriteFile(filepath.Join(dir, indexFile), document, 0o600))
}

// Rewrite puts another layer.json in the place of the one that is there, durably.
func Rewrite(dir string, l Layer) error {
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return durable.Replace(filepath.Join(dir, layerFile), data)
}

// Read reads layer.json. NotFound when there is none, DataLoss when it is damaged.
func Read(dir string) (Layer, error) {
	var l Layer
	data, err := readFile(dir, layerFile)
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(data, &l); err != nil {
		return l, fmt.Errorf("cannot read %s: %v: %w", layerFile, err, errdefs.ErrDataLoss)
	}
	return l, nil
}

// Index reads the layer's index, as Settle was told of the layers below. DataLoss when it is damaged or of another blob.
func Index(dir string, l Layer) (*index.Index, error) {
	x, err := rawIndex(dir, l)
	if err != nil {
		return nil, err
	}
	data, err := readFile(dir, belowFile)
	if err != nil {
		return nil, err
	}
	var answers []answer
	if err := json.Unmarshal(data, &answers); err != nil {
		return nil, fmt.Errorf("cannot read %s: %v: %w", belowFile, err, errdefs.ErrDataLoss)
	}
	if len(answers) == 0 {
		return x, nil
	}
	known := make(map[string]*answer, len(answers))
	for i := range answers {
		known[string(answers[i].Path)] = &answers[i]
	}
	return x.Settle(func(path string) (index.Node, bool, error) {
		a := known[path]
		if a == nil {
			return index.Node{}, false, fmt.Errorf("%s does not tell of %.300q: %w", belowFile, path, errdefs.ErrDataLoss)
		}
		return a.node(), a.Exists, nil
	})
}

func rawIndex(dir string, l Layer) (*index.Index, error) {
	if l.Kind == index.Stream {
		return index.Empty(l.Descriptor.Size)
	}
	document, err := readFile(dir, indexFile)
	if err != nil {
		return nil, err
	}
	x, err := index.Parse(document, index.Limits{})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
	}
	if x.BlobSize() != l.Descriptor.Size {
		return nil, fmt.Errorf("the index is of a blob of %d bytes, not of %s with %d: %w", x.BlobSize(), l.Descriptor.Digest, l.Descriptor.Size, errdefs.ErrDataLoss)
	}
	return x, nil
}

func readFile(dir, name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes: %w", f.Name(), maxFile, errdefs.ErrDataLoss)
	}
	return data, err
}
