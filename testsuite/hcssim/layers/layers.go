// Package layers is the simulated layer storage of Windows: what vmcompute.dll does with folders of layers.
//
// Here each layer's folder has all of its files: those of its parents are hard links (Windows has placeholders that the WCIFS
// filter follows). A scratch's disk is a folder beside sandbox.vhdx, filled when the scratch is prepared. What NTFS knows about a
// file and the file system here may not (attributes, security descriptor, reparse point, named streams) is in metadata.json of
// the layer, as the backup streams it came in.
//
// Which scratches are mounted is on disk, in a folder of the simulator, written before a call is answered. A call that
// ends in the middle leaves a half-made layer, as it does on Windows: whoever called destroys it.
package layers

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
)

const (
	filesDir     = "Files"
	hivesDir     = "Hives"
	utilityDir   = "UtilityVM"
	scratchDisk  = "sandbox.vhdx"
	scratchFiles = "sandbox.files" // what the disk holds
	metadataFile = "metadata.json"
	tombstones   = "tombstones.txt"
	dirSuffix    = ".$wcidirs$"
)

// Store is the service's layer storage. Its methods are functions of vmcompute.dll.
type Store struct {
	dir string

	mu     sync.Mutex
	mounts map[string]*mount // by clean path in small letters
}

type mount struct {
	Path, Volume string
	Prepared     bool
}

// New makes a Store that keeps its state in dir, with the mounts that it finds there.
func New(dir string) (*Store, error) {
	s := &Store{dir: dir, mounts: map[string]*mount{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		m := &mount{}
		if err := json.Unmarshal(b, m); err != nil {
			return nil, fmt.Errorf("cannot read mount %s: %w", e.Name(), err)
		}
		s.mounts[key(m.Path)] = m
	}
	return s, nil
}

func key(path string) string { return strings.ToLower(filepath.Clean(path)) }

func (s *Store) save(m *mount) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	file := filepath.Join(s.dir, m.Volume+".json")
	if err := os.WriteFile(file+".tmp", b, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".tmp", file)
}

// GUID is the GUID that NameToGuid makes of a name, as Windows has it in memory. Its version says that it comes from a hash.
func GUID(name string) [16]byte {
	h := sha256.Sum256([]byte(strings.ToLower(name)))
	g := [16]byte(h[:16])
	g[7], g[8] = g[7]&0x0f|0x50, g[8]&0x3f|0x80
	return g
}

// exists answers the HRESULT of a layer that isn't there.
func exists(path string) error {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return hresult.New(hresult.PathNotFound, "there is no layer '%s'", path)
	case err != nil:
		return err
	case !fi.IsDir():
		return hresult.New(hresult.InvalidParameter, "'%s' is no folder", path)
	}
	return nil
}

// Exists says whether a layer is there.
func (s *Store) Exists(path string) bool { return exists(path) == nil }

// CreateScratch makes a scratch on parents, the topmost first.
func (s *Store) CreateScratch(path string, parents []string) error {
	if len(parents) == 0 {
		return hresult.New(hresult.InvalidParameter, "a scratch needs parents")
	}
	for _, p := range parents {
		if err := exists(p); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(path, scratchDisk), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return hresult.New(hresult.AlreadyExistsFile, "'%s' is a scratch already", path)
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString("vhdxfile")
	return errors.Join(err, f.Close())
}

// ExpandScratch grows a scratch's disk to size bytes.
func (s *Store) ExpandScratch(path string, size uint64) error {
	if err := needDisk(path); err != nil {
		return err
	}
	if size < 1<<30 || size > 64<<40 {
		return hresult.New(hresult.InvalidParameter, "%d bytes is no size of a disk", size)
	}
	return nil
}

func needDisk(path string) error {
	if err := exists(path); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(path, scratchDisk)); err != nil {
		return hresult.New(hresult.FileNotFound, "'%s' has no %s", path, scratchDisk)
	}
	return nil
}

// Activate attaches a scratch's disk; its volume has a name from then on.
func (s *Store) Activate(path string) error {
	if err := needDisk(path); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mounts[key(path)] != nil {
		return nil // attaching again counts as one
	}
	m := &mount{Path: filepath.Clean(path), Volume: volume(path)}
	if err := s.save(m); err != nil {
		return err
	}
	s.mounts[key(path)] = m
	return nil
}

func volume(path string) string {
	h := sha256.Sum256([]byte(key(path)))
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// Prepare puts the parents' files under an activated scratch's volume.
func (s *Store) Prepare(path string, parents []string) error {
	if len(parents) == 0 {
		return hresult.New(hresult.InvalidParameter, "a scratch needs parents")
	}
	for _, p := range parents {
		if err := exists(p); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.mounts[key(path)]
	switch {
	case m == nil:
		return hresult.New(hresult.InvalidState, "'%s' is not activated", path)
	case m.Prepared:
		return hresult.New(hresult.AlreadyExists, "'%s' is prepared already", path)
	}
	files := filepath.Join(path, scratchFiles)
	if _, err := os.Stat(files); errors.Is(err, fs.ErrNotExist) {
		if err := fillScratch(path, parents[0]); err != nil {
			return err
		}
	}
	m.Prepared = true
	return s.save(m)
}

// fillScratch copies a parent's files, for a container to write to; under another name until all are there.
func fillScratch(path, parent string) error {
	tmp := filepath.Join(path, scratchFiles+".tmp")
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := copyTree(filepath.Join(parent, filesDir), tmp, copyFile); err != nil {
		return err
	}
	m, err := readMetadata(parent)
	if err != nil {
		return err
	}
	if err := m.write(path); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(path, scratchFiles))
}

// Unprepare takes the parents' files away again.
func (s *Store) Unprepare(path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.mounts[key(path)]
	if m == nil || !m.Prepared {
		return hresult.New(hresult.ElementNotFound, "'%s' is not prepared", path)
	}
	m.Prepared = false
	return s.save(m)
}

// Deactivate detaches a scratch's disk.
func (s *Store) Deactivate(path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.mounts[key(path)]
	switch {
	case m == nil:
		return hresult.New(hresult.ElementNotFound, "'%s' is not activated", path)
	case m.Prepared:
		return hresult.New(hresult.InvalidState, "'%s' is prepared", path)
	}
	if err := os.Remove(filepath.Join(s.dir, m.Volume+".json")); err != nil {
		return err
	}
	delete(s.mounts, key(path))
	return nil
}

// MountPath is where a layer's files are: the volume of an activated scratch, the folder of any other layer.
func (s *Store) MountPath(path string) (string, error) {
	if err := exists(path); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.mounts[key(path)]; m != nil {
		return `\\?\Volume{` + m.Volume + `}`, nil
	}
	return path, nil
}

// Files is the folder with the files of a scratch, named by its volume or its path; "" when it isn't prepared.
func (s *Store) Files(scratch string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := strings.TrimRight(scratch, `\`)
	for _, m := range s.mounts {
		if m.Prepared && (strings.EqualFold(name, `\\?\Volume{`+m.Volume+`}`) || key(name) == key(m.Path)) {
			return filepath.Join(m.Path, scratchFiles)
		}
	}
	return ""
}

// Destroy removes a layer and all of its files; one that isn't there is no error. A mounted one is in use.
func (s *Store) Destroy(path string) error {
	s.mu.Lock()
	m := s.mounts[key(path)]
	s.mu.Unlock()
	if m != nil {
		return hresult.New(0x80070020, "'%s' is in use", path) // ERROR_SHARING_VIOLATION
	}
	return os.RemoveAll(path)
}

// GrantAccess lets a virtual machine read a file.
func (s *Store) GrantAccess(vm, path string) error {
	if vm == "" {
		return hresult.New(hresult.InvalidParameter, "no virtual machine")
	}
	if _, err := os.Stat(path); err != nil {
		return hresult.New(hresult.FileNotFound, "there is no '%s'", path)
	}
	return nil
}
