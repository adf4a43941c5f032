// Package layers is the simulated layer storage of Windows: what vmcompute.dll does with folders of layers.
//
// Here a layer's folder has, as on Windows, a placeholder for each file and directory of its parents in the directories that it changed something
// in: hard links, and empty directories that placeholders.json lists, which the WCIFS filter of Windows would look into its parents for. A scratch's disk is the folder sandbox.files beside sandbox.vhdx, which is moved to where volumes are while the
// scratch is activated, and filled when it is first prepared. What NTFS knows about a
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

	placeholdersFile = "placeholders.json"
)

// Store is the service's layer storage. Its methods are functions of vmcompute.dll and virtdisk.dll.
type Store struct {
	dir, volumes string

	mu     sync.Mutex
	mounts map[string]*mount // by key
}

// mount is a layer that is activated, or whose disk is attached.
type mount struct {
	Path, Volume     string
	Disk             bool // it is a scratch: its files are the volume's
	Active, Prepared bool
}

// New makes a Store that keeps its state in dir, with the mounts that it finds there. Volumes are folders in volumes, named as
// Windows names them, in small letters: under wine that is the prefix's dosdevices, and makes \\?\Volume{GUID}\ a path for all programs.
func New(dir, volumes string) (*Store, error) {
	s := &Store{dir: dir, volumes: volumes, mounts: map[string]*mount{}}
	for _, d := range []string{dir, volumes} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
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

// clean is a path without what only lifts Win32's limits.
func clean(path string) string { return filepath.Clean(strings.TrimPrefix(path, `\\?\`)) }

func key(path string) string { return strings.ToLower(clean(path)) }

func (s *Store) folder(m *mount) string { return filepath.Join(s.volumes, "volume{"+m.Volume+"}") }

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

// Activate attaches a layer; the volume of a scratch has a name from then on.
func (s *Store) Activate(path string) error { return s.attach(path, true) }

// Attach attaches a scratch's disk by virtdisk.dll, until it is activated and deactivated, or destroyed: nobody here hears that the
// disk's handle is closed.
func (s *Store) Attach(path string) error {
	if err := needDisk(path); err != nil {
		return err
	}
	return s.attach(path, false)
}

func (s *Store) attach(path string, active bool) error {
	if err := exists(path); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.mounts[key(path)]
	if m == nil {
		m = &mount{Path: clean(path), Volume: volume(path), Disk: needDisk(path) == nil}
		if m.Disk {
			if err := s.openVolume(m); err != nil {
				return err
			}
		}
	}
	m.Active = m.Active || active // activating again counts as one
	if err := s.save(m); err != nil {
		return err
	}
	s.mounts[key(path)] = m
	return nil
}

// openVolume makes a scratch's files its volume's. What a call left that ended in the middle is there already.
func (s *Store) openVolume(m *mount) error {
	kept := filepath.Join(m.Path, scratchFiles)
	if _, err := os.Stat(kept); err == nil {
		if err := os.RemoveAll(s.folder(m)); err != nil {
			return err
		}
		return os.Rename(kept, s.folder(m))
	}
	return os.MkdirAll(s.folder(m), 0o755)
}

func volume(path string) string {
	h := sha256.Sum256([]byte(key(path)))
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// Prepare puts the parents' files under an activated scratch's volume; any other layer has them already.
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
	case m == nil || !m.Active:
		return hresult.New(hresult.InvalidState, "'%s' is not activated", path)
	case m.Prepared:
		return hresult.New(hresult.AlreadyExists, "'%s' is prepared already", path)
	}
	if _, err := os.Stat(filepath.Join(m.Path, metadataFile)); m.Disk && errors.Is(err, fs.ErrNotExist) {
		if err := fillScratch(m.Path, s.folder(m), parents); err != nil {
			return err
		}
	}
	m.Prepared = true
	return s.save(m)
}

// fillScratch copies parents' files, for a container to write to. The metadata, written last, says that all are there.
func fillScratch(scratch, volume string, parents []string) error {
	v, err := readView(parents...)
	if err != nil {
		return err
	}
	if err := v.copyTo(volume); err != nil {
		return err
	}
	m, err := readMetadata(parents[0])
	if err != nil {
		return err
	}
	return m.write(scratch)
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

// Deactivate detaches a layer.
func (s *Store) Deactivate(path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.mounts[key(path)]
	switch {
	case m == nil || !m.Active:
		return hresult.New(hresult.ElementNotFound, "'%s' is not activated", path)
	case m.Prepared:
		return hresult.New(hresult.InvalidState, "'%s' is prepared", path)
	}
	if m.Disk {
		if err := os.Rename(s.folder(m), filepath.Join(m.Path, scratchFiles)); err != nil {
			return fmt.Errorf("cannot detach the disk of %s: %w", path, err)
		}
	}
	return s.forget(m)
}

func (s *Store) forget(m *mount) error {
	delete(s.mounts, key(m.Path))
	err := os.Remove(filepath.Join(s.dir, m.Volume+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// MountPath is where a layer's files are: the volume of an attached scratch, the folder of any other layer.
func (s *Store) MountPath(path string) (string, error) {
	if err := exists(path); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.mounts[key(path)]
	switch {
	case m != nil && m.Disk:
		return `\\?\Volume{` + m.Volume + `}`, nil
	case needDisk(path) == nil:
		return "", hresult.New(hresult.InvalidState, "'%s' is not activated", path)
	}
	return path, nil
}

// Files is the folder with the files of a scratch, named by its volume or its path; "" when it isn't prepared.
func (s *Store) Files(scratch string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := strings.TrimRight(scratch, `\`)
	for _, m := range s.mounts {
		if m.Disk && m.Prepared && (strings.EqualFold(name, `\\?\Volume{`+m.Volume+`}`) || key(name) == key(m.Path)) {
			return s.folder(m)
		}
	}
	return ""
}

// Destroy removes a layer and all of its files; one that isn't there is no error. An activated one is in use.
func (s *Store) Destroy(path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.mounts[key(path)]; m != nil {
		if m.Active {
			return hresult.New(hresult.SharingViolation, "'%s' is in use", path)
		}
		if err := errors.Join(os.RemoveAll(s.folder(m)), s.forget(m)); err != nil {
			return err
		}
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
