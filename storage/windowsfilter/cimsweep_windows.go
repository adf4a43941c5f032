package windowsfilter

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"regexp"

	"github.com/Microsoft/hcsshim/pkg/cimfs/format"
)

// cimPart is the name of a file beside an image: its kind, the id of the set that it is of, and its number (hcsshim, pkg/cimfs/format).
var cimPart = regexp.MustCompile(`^(?:` + format.RegionFileName + `|` + format.ObjectIDFileName + `)_([0-9a-fA-F-]{36})_[0-9]+$`)

// sweepCims deletes what a crash left of images that were being written: files whose set no image names. An image appears when it is whole. Nothing is
// deleted when one of them cannot be read; what cannot be deleted is left to the next start.
func sweepCims(dir string) error {
	images, err := filepath.Glob(filepath.Join(dir, "*.cim"))
	if err != nil {
		return err
	}
	named := map[string]bool{}
	for _, path := range images {
		h, err := readCimHeader(path)
		if err != nil || h.Common.Magic != format.MagicValue {
			return nil
		}
		named[h.Regions.ID.String()] = true
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if m := cimPart.FindStringSubmatch(f.Name()); m != nil && !named[m[1]] {
			_ = os.Remove(filepath.Join(dir, f.Name()))
		}
	}
	return nil
}

func readCimHeader(path string) (h format.FilesystemHeader, err error) {
	f, err := os.Open(path)
	if err != nil {
		return h, err
	}
	defer f.Close()
	return h, binary.Read(f, binary.LittleEndian, &h)
}
