package layer

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// spool keeps decoded units in a file without a name, up to a limit; then it begins anew. It is no cache: nothing of it outlives the
// process. nil keeps nothing.
type spool struct {
	limit int64

	mu     sync.RWMutex // held for reading while the file is read: places do not change their content meanwhile
	file   *os.File     // nil once something has failed, or after Close
	end    int64
	places map[unitKey]place
}

type place struct{ offset, size int64 }

// newSpool makes the file. A crash in the middle leaves an empty one, which the next spool uses.
func newSpool(dir string, limit int64) (*spool, error) {
	if dir == "" || limit <= 0 {
		return nil, nil
	}
	name := filepath.Join(dir, "units")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot make a file for decoded units: %w", err)
	}
	if err := os.Remove(name); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("cannot make a file for decoded units: %w", err)
	}
	return &spool{limit: limit, file: f, places: map[unitKey]place{}}, nil
}

// Close frees the disk.
func (s *spool) Close() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drop()
}

// drop needs mu.
func (s *spool) drop() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file, s.places = nil, nil
	return err
}

// read answers size bytes of a unit from from on, or nil when they are not here.
func (s *spool) read(key unitKey, from, size int64) []byte {
	if s == nil {
		return nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	p, ok := s.places[key]
	if !ok || from+size > p.size {
		return nil
	}
	data := make([]byte, size)
	if _, err := s.file.ReadAt(data, p.offset+from); err != nil {
		return nil
	}
	return data
}

// write keeps a unit. On a disk that is full or fails it gives up for good: that is what memory and the registry are for.
func (s *spool) write(key unitKey, data []byte) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	size := int64(len(data))
	if _, ok := s.places[key]; ok || s.file == nil || size > s.limit {
		return
	}
	if s.end+size > s.limit {
		s.places, s.end = map[unitKey]place{}, 0
	}
	if _, err := s.file.WriteAt(data, s.end); err != nil {
		_ = s.drop() // frees what it took
		return
	}
	s.places[key] = place{s.end, size}
	s.end += size
}
