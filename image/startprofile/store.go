package startprofile

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

const (
	maxStore   = 16 << 20 // bytes of all profiles
	perImage   = 16
	tempPrefix = "new-"
	suffix     = ".json"
)

// Store keeps profiles in a directory, named by image and command line. The least recently used go when it is full. It is safe for
// concurrent use, and one process has it at a time.
type Store struct {
	dir string
	log *slog.Logger

	mu    sync.Mutex
	kept  map[key]kept
	total int64
}

type key struct {
	image digest.Digest
	args  string
}

type kept struct {
	size   int64
	used   time.Time
	layers []digest.Digest // nil until they are read
}

// Open opens or makes the store in a directory.
func Open(dir string, log *slog.Logger) (*Store, error) {
	s := &Store{dir: dir, log: log, kept: map[key]kept{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the directory of start profiles: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list the start profiles: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return nil, fmt.Errorf("cannot remove an unfinished start profile: %w", err)
			}
			continue
		}
		image, args, _ := strings.Cut(strings.TrimSuffix(e.Name(), suffix), "-")
		k := key{digest.NewDigestFromEncoded(digest.SHA256, image), args}
		info, err := e.Info()
		if err != nil || k.name() != e.Name() || k.image.Validate() != nil || !isHash(args) || !info.Mode().IsRegular() {
			continue // not ours
		}
		s.kept[k] = kept{size: info.Size(), used: info.ModTime()}
		s.total += info.Size()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evict("")
	return s, nil
}

func (k key) name() string { return k.image.Encoded() + "-" + k.args + suffix }

// Size tells how many profiles are kept, and their bytes.
func (s *Store) Size() (profiles int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.kept), s.total
}

// Get answers the profile of an image with a command line. NotFound when there is none.
func (s *Store) Get(image digest.Digest, args string) (*Profile, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.get(key{image, args})
}

// get needs mu.
func (s *Store) get(k key) (*Profile, error) {
	e, ok := s.kept[k]
	if !ok {
		return nil, fmt.Errorf("no start of image %s with that command line was recorded: %w", k.image, errdefs.ErrNotFound)
	}
	data, err := readSmall(s.path(k))
	var p *Profile
	if err == nil {
		p, err = Parse(data)
	}
	if err == nil && (p.Image != k.image || p.Args != k.args) {
		err = invalid("it is of another image")
	}
	if err != nil {
		s.log.Warn("a start profile is damaged and is forgotten", "image", k.image, "err", err)
		s.remove(k)
		return nil, fmt.Errorf("the start profile of image %s was damaged: %w", k.image, errdefs.ErrNotFound)
	}
	e.used, e.layers = time.Now(), p.Layers
	s.kept[k] = e
	_ = os.Chtimes(s.path(k), e.used, e.used) // at worst it is evicted too early
	return p, nil
}

// List answers the profiles of an image, the one used last first.
func (s *Store) List(image digest.Digest) []*Profile {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*Profile
	for _, k := range s.keys(func(k key) bool { return k.image == image }) {
		if p, err := s.get(k); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// keys lists those that match, the one used last first. It needs mu.
func (s *Store) keys(match func(key) bool) []key {
	var out []key
	for k := range s.kept {
		if match(k) {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, func(a, b key) int {
		return cmp.Or(s.kept[b].used.Compare(s.kept[a].used), cmp.Compare(a.name(), b.name()))
	})
	return out
}

// Find answers what is likely to be read when an image with these layers starts with a command line: its own profile; or the one
// of the image that was used last; or that of another image with the most layers of this one, with the same command line if there
// is one. NotFound when nothing is known.
func (s *Store) Find(image digest.Digest, args string, layers []digest.Digest) (*Profile, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, err := s.get(key{image, args}); err == nil {
		return p, nil
	}
	for _, k := range s.keys(func(k key) bool { return k.image == image }) {
		if p, err := s.get(k); err == nil {
			return p, nil
		}
	}
	var best key
	score := 0
	for _, k := range s.keys(func(key) bool { return true }) {
		n := 0
		for _, l := range s.layers(k) {
			if slices.Contains(layers, l) {
				n += 2
			}
		}
		if n > 0 && k.args == args {
			n++
		}
		if n > score {
			best, score = k, n
		}
	}
	return s.get(best)
}

// layers answers those of a profile, from memory but the first time. It needs mu.
func (s *Store) layers(k key) []digest.Digest {
	e := s.kept[k]
	if e.layers != nil {
		return e.layers
	}
	data, err := readSmall(s.path(k))
	if err != nil {
		return nil
	}
	p, err := Parse(data)
	if err != nil {
		return nil
	}
	e.layers = p.Layers
	s.kept[k] = e
	return e.layers
}

// Put keeps a profile in the place of any other of its image and command line.
func (s *Store) Put(p *Profile) error {
	fail := func(err error) error {
		return fmt.Errorf("cannot keep the start profile of image %s: %w", p.Image, err)
	}
	if err := p.check(); err != nil {
		return fail(err)
	}
	data, err := p.Marshal()
	if err != nil {
		return fail(err)
	}
	f, err := os.CreateTemp(s.dir, tempPrefix)
	if err != nil {
		return fail(err)
	}
	if _, err = f.Write(data); err == nil {
		// The directory is not synced: a power cut may lose the name, but never show a file without its bytes.
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fail(errors.Join(err, os.Remove(f.Name())))
	}
	k := key{p.Image, p.Args}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.Rename(f.Name(), s.path(k)); err != nil {
		return fail(errors.Join(err, os.Remove(f.Name())))
	}
	s.total += int64(len(data)) - s.kept[k].size
	s.kept[k] = kept{size: int64(len(data)), used: time.Now(), layers: p.Layers}
	s.evict(p.Image)
	return nil
}

// evict removes what was not used for longest: of an image that has too many, and of all. The caller holds mu.
func (s *Store) evict(image digest.Digest) {
	if of := s.keys(func(k key) bool { return k.image == image }); len(of) > perImage {
		for _, k := range of[perImage:] {
			s.remove(k)
		}
	}
	if s.total <= maxStore {
		return
	}
	all := s.keys(func(key) bool { return true })
	for i := len(all) - 1; i >= 0 && s.total > maxStore; i-- {
		s.remove(all[i])
	}
}

// remove needs mu.
func (s *Store) remove(k key) {
	if err := os.Remove(s.path(k)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("cannot remove an old start profile", "image", k.image, "err", err)
	}
	s.total -= s.kept[k].size
	delete(s.kept, k)
}

func (s *Store) path(k key) string { return filepath.Join(s.dir, k.name()) }

func readSmall(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > MaxSize {
		return nil, fmt.Errorf("it has %d bytes: %w", info.Size(), errdefs.ErrOutOfRange)
	}
	return os.ReadFile(name)
}
