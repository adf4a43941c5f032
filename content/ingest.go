package content

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// The files of an ingest, side by side rather than in a directory of their own: making one costs more than all the rest
// of a small blob but the syncs.
const (
	metaFile = ".meta"
	metaTemp = ".meta.new"
	dataFile = ".data"

	maxRef  = 4096      // bytes
	maxMeta = 32 * 1024 // bytes: a ref may take six times its length in JSON
)

// ingestMeta is the meta file of an ingest, in JSON. What changes with every write (offset, time of the last write) is
// taken from the data file.
type ingestMeta struct {
	Ref       string        `json:"ref"`
	Total     int64         `json:"total,omitempty"`
	Expected  digest.Digest `json:"expected,omitempty"`
	StartedAt time.Time     `json:"started"`
}

// ingestName is what the files of an ingest are called: a hash, because a ref may hold anything.
func ingestName(ref string) string {
	return digest.FromString(ref).Encoded()
}

// ingestPath is one of the files of an ingest.
func ingestPath(name, file string) string {
	return ingestDir + "/" + name + file
}

func checkRef(ref string) error {
	if ref == "" || len(ref) > maxRef || !utf8.ValidString(ref) {
		return fmt.Errorf("ingest ref %.80q must be valid UTF-8 of 1 to %d bytes: %w", ref, maxRef, errdefs.ErrInvalidArgument)
	}
	return nil
}

// parseMeta reads the meta file of the ingest called name. Any error means that the ingest is of no use.
func parseMeta(name string, data []byte) (ingestMeta, error) {
	var m ingestMeta
	if err := json.Unmarshal(data, &m); err != nil {
		return m, err
	}
	if err := checkRef(m.Ref); err != nil {
		return m, err
	}
	if ingestName(m.Ref) != name {
		return m, fmt.Errorf("ref %q belongs to another ingest", m.Ref)
	}
	if m.Total < 0 {
		return m, fmt.Errorf("total of %d bytes", m.Total)
	}
	if m.Expected != "" {
		return m, m.Expected.Validate()
	}
	return m, nil
}

func (s *FS) readMeta(name string) (ingestMeta, error) {
	f, err := s.root.Open(ingestPath(name, metaFile))
	if err != nil {
		return ingestMeta{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxMeta))
	if err != nil {
		return ingestMeta{}, err
	}
	return parseMeta(name, data)
}

// writeMeta writes the meta file of a new ingest. When it is torn by a crash, the ingest is swept.
func (s *FS) writeMeta(name, file string, m ingestMeta) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := s.at("ingest: write meta"); err != nil {
		return err
	}
	return s.root.WriteFile(ingestPath(name, file), data, 0o600)
}

// replaceMeta puts a new meta file in the place of an old one, whole or not at all.
func (s *FS) replaceMeta(name string, m ingestMeta) error {
	if err := s.writeMeta(name, metaTemp, m); err != nil {
		return err
	}
	if err := s.at("ingest: rename meta"); err != nil {
		return err
	}
	return s.root.Rename(ingestPath(name, metaTemp), ingestPath(name, metaFile))
}

// lock takes an ingest for the caller alone, until unlock.
func (s *FS) lock(name, ref string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.writing[name]; ok {
		return fmt.Errorf("ingest %q is in use by another writer: %w", ref, errdefs.ErrUnavailable)
	}
	s.writing[name] = struct{}{}
	return nil
}

func (s *FS) unlock(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.writing, name)
}

func (s *FS) status(name string) (Ingest, error) {
	m, err := s.readMeta(name)
	if err != nil {
		return Ingest{}, err
	}
	fi, err := s.root.Lstat(ingestPath(name, dataFile))
	if err != nil {
		return Ingest{}, err
	}
	return Ingest{
		Ref:       m.Ref,
		Offset:    fi.Size(),
		Total:     m.Total,
		Expected:  m.Expected,
		StartedAt: m.StartedAt,
		UpdatedAt: fi.ModTime(),
	}, nil
}

// Status implements Store.
func (s *FS) Status(_ context.Context, ref string) (Ingest, error) {
	if err := checkRef(ref); err != nil {
		return Ingest{}, err
	}
	st, err := s.status(ingestName(ref))
	if err != nil {
		return Ingest{}, ingestError("read", ref, err)
	}
	return st, nil
}

func ingestError(verb, ref string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("ingest %q: %w", ref, errdefs.ErrNotFound)
	}
	return fmt.Errorf("cannot %s ingest %q: %w", verb, ref, err)
}

// ingestNames lists what files of ingests there are, by the names of the ingests.
func (s *FS) ingestNames() ([]string, error) {
	dir, err := s.root.Open(ingestDir)
	if err != nil {
		return nil, fmt.Errorf("cannot list ingests: %w", err)
	}
	defer dir.Close()
	files, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("cannot list ingests: %w", err)
	}
	names := make([]string, 0, len(files))
	for _, file := range files {
		name, _, _ := strings.Cut(file, ".")
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Ingests implements Store.
func (s *FS) Ingests(ctx context.Context) ([]Ingest, error) {
	names, err := s.ingestNames()
	if err != nil {
		return nil, err
	}
	var all []Ingest
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		// One that cannot be read is coming, going or damaged; the last is swept when the store is opened next.
		if st, err := s.status(name); err == nil {
			all = append(all, st)
		}
	}
	return all, nil
}

// Abort implements Store.
func (s *FS) Abort(_ context.Context, ref string) error {
	if err := checkRef(ref); err != nil {
		return err
	}
	name := ingestName(ref)
	if err := s.lock(name, ref); err != nil {
		return err
	}
	defer s.unlock(name)
	if _, err := s.root.Lstat(ingestPath(name, metaFile)); err != nil {
		return ingestError("abort", ref, err)
	}
	if err := s.remove(name); err != nil {
		return fmt.Errorf("cannot abort ingest %q: %w", ref, err)
	}
	return nil
}

// remove deletes the files of an ingest, data first: an ingest without data is swept when the store is opened, and so
// needs no sync here. The caller holds its lock.
func (s *FS) remove(name string) error {
	for _, file := range []string{dataFile, metaFile} {
		if err := s.at("ingest: remove " + file); err != nil {
			return err
		}
		if err := s.root.Remove(ingestPath(name, file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// sweep removes the ingests that cannot be resumed, without a meta file that can be read or without data, and what is left
// of a meta file that was being replaced.
func (s *FS) sweep() error {
	names, err := s.ingestNames()
	if err != nil {
		return err
	}
	for _, name := range names {
		remains := []string{metaTemp}
		if _, err := s.status(name); err != nil {
			remains = []string{metaTemp, dataFile, metaFile, ""}
		}
		for _, file := range remains {
			if err := s.root.RemoveAll(ingestPath(name, file)); err != nil {
				return fmt.Errorf("cannot remove the remains of ingest %s: %w", name, err)
			}
		}
	}
	return nil
}
