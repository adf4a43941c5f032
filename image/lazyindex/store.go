// Package lazyindex knows the indexes by which layers can be served before they are here: it keeps those that this host
// recorded while it pulled a layer in full, finds those that others published beside an image, and publishes.
//
// It owns a directory of indexes by layer, the form of the artifact in which indexes travel, and the question whom to
// believe. What an index is, package storage/lazyfuse/index says; the registry is spoken to by image/registry. It imports neither
// package engine nor any storage driver.
//
// What a crash leaves: temporary files, which Open removes. An index is written whole or not at all, and checked when it is
// read; to lose one costs time at the next pull and nothing else.
package lazyindex

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/storage/lazyfuse/index"
)

// DefaultLimit is the size of a Store in bytes where nothing else is said: indexes of about 30 GB of layers.
const DefaultLimit = 256 << 20

const (
	maxDocument = 64 << 20 // bytes of one index
	maxReason   = 1 << 10
	tempPrefix  = "new-"
	refusal     = "no index: " // begins a file that says why there is none
)

// Store keeps indexes by the digest of the layer's blob, apart from content and images: an index is of use when its layer is
// gone. The least recently used go when it is full. It is safe for concurrent use, and one process has it at a time.
type Store struct {
	dir   string
	limit int64
	log   *slog.Logger

	mu    sync.Mutex
	kept  map[digest.Digest]kept
	total int64 // bytes of all in kept
}

type kept struct {
	size int64
	used time.Time
}

// Open opens or makes the store in a directory, with at most limit bytes (0 for DefaultLimit).
func Open(dir string, limit int64, log *slog.Logger) (*Store, error) {
	if limit <= 0 {
		limit = DefaultLimit
	}
	s := &Store{dir: filepath.Join(dir, "sha256"), limit: limit, log: log, kept: map[digest.Digest]kept{}}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the directory of indexes: %w", err)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list the indexes: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			if err := os.Remove(filepath.Join(s.dir, e.Name())); err != nil {
				return nil, fmt.Errorf("cannot remove an unfinished index: %w", err)
			}
			continue
		}
		layer := digest.NewDigestFromEncoded(digest.SHA256, e.Name())
		info, err := e.Info()
		if err != nil || layer.Validate() != nil || !info.Mode().IsRegular() {
			continue // not ours
		}
		s.kept[layer] = kept{info.Size(), info.ModTime()}
		s.total += info.Size()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evict()
	return s, nil
}

// Get answers the index of a layer, in the form of index.Marshal, and has it count as used. NotFound when there is none;
// NotImplemented, with the reason, when one was tried and cannot be.
func (s *Store) Get(layer digest.Digest) ([]byte, error) {
	name, err := s.path(layer)
	if err != nil {
		return nil, err
	}
	data, err := readSmall(name, maxDocument)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no index of layer %s was recorded on this host: %w", layer, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the index of layer %s: %w", layer, err)
	}
	s.touch(layer, name)
	if reason, refused := bytes.CutPrefix(data, []byte(refusal)); refused {
		return nil, fmt.Errorf("layer %s cannot be indexed: %s: %w", layer, reason, errdefs.ErrNotImplemented)
	}
	if _, err := index.Parse(data, index.Limits{}); err != nil {
		s.log.Warn("an index is damaged and is forgotten", "layer", layer, "err", err)
		s.forget(layer, name)
		return nil, fmt.Errorf("the index of layer %s was damaged: %w", layer, errdefs.ErrNotFound)
	}
	return data, nil
}

// Has says whether Get has an answer other than NotFound.
func (s *Store) Has(layer digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.kept[layer]
	return ok
}

// Put keeps the index of a layer, in the form of index.Marshal, in the place of any other. It must come from who is
// believed, for Get's answers are: this host itself, from a blob whose digest it has checked.
func (s *Store) Put(layer digest.Digest, document []byte) error {
	if len(document) > maxDocument || int64(len(document)) > s.limit/4 {
		return fmt.Errorf("the index of layer %s has %d bytes, too many to keep: %w", layer, len(document), errdefs.ErrOutOfRange)
	}
	return s.write(layer, document)
}

// Refuse notes why there can be no index of a layer. It does not replace an index.
func (s *Store) Refuse(layer digest.Digest, reason error) error {
	if s.Has(layer) {
		return nil
	}
	text := strings.ToValidUTF8(reason.Error(), "?")
	return s.write(layer, []byte(refusal+text[:min(len(text), maxReason)]))
}

func (s *Store) write(layer digest.Digest, data []byte) error {
	name, err := s.path(layer)
	if err != nil {
		return err
	}
	fail := func(err error) error { return fmt.Errorf("cannot keep the index of layer %s: %w", layer, err) }
	f, err := os.CreateTemp(s.dir, tempPrefix)
	if err != nil {
		return fail(err)
	}
	_, err = f.Write(data)
	if err == nil {
		// The directory is not synced: a power cut may lose the name, but never show a file without its bytes.
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fail(errors.Join(err, os.Remove(f.Name())))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.Rename(f.Name(), name); err != nil {
		return fail(errors.Join(err, os.Remove(f.Name())))
	}
	s.total += int64(len(data)) - s.kept[layer].size
	s.kept[layer] = kept{int64(len(data)), time.Now()}
	s.evict()
	return nil
}

// evict removes what was not used for longest until the rest is within the limit. The caller holds mu.
func (s *Store) evict() {
	for s.total > s.limit {
		var oldest digest.Digest
		for layer, k := range s.kept {
			if oldest == "" || k.used.Before(s.kept[oldest].used) {
				oldest = layer
			}
		}
		if err := os.Remove(filepath.Join(s.dir, oldest.Encoded())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("cannot remove an old index", "layer", oldest, "err", err)
		}
		s.total -= s.kept[oldest].size
		delete(s.kept, oldest)
	}
}

// touch notes that an index was used. The file's time is how the next process knows.
func (s *Store) touch(layer digest.Digest, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, ok := s.kept[layer]; ok {
		k.used = time.Now()
		s.kept[layer] = k
		_ = os.Chtimes(name, k.used, k.used) // at worst it is evicted too early
	}
}

func (s *Store) forget(layer digest.Digest, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("cannot remove an index", "layer", layer, "err", err)
		return
	}
	s.total -= s.kept[layer].size
	delete(s.kept, layer)
}

func (s *Store) path(layer digest.Digest) (string, error) {
	if err := layer.Validate(); err != nil {
		return "", fmt.Errorf("layer %.100q: %w: %w", layer, err, errdefs.ErrInvalidArgument)
	}
	if layer.Algorithm() != digest.SHA256 {
		return "", fmt.Errorf("indexes are kept of layers named by SHA-256 only, not of %s: %w", layer, errdefs.ErrNotImplemented)
	}
	return filepath.Join(s.dir, layer.Encoded()), nil
}

// readSmall reads a file whole, OutOfRange when it is above limit.
func readSmall(name string, limit int64) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("it has %d bytes, more than the %d allowed: %w", info.Size(), limit, errdefs.ErrOutOfRange)
	}
	return os.ReadFile(name)
}
