package index

import (
	"io/fs"
	"slices"
)

// Settle answers the index of the layer as it is on others, which below looks into: it answers what they show at a path from
// the root. Directories that this layer implies take the attributes of those below, and whiteouts that hide nothing go. The
// numbers of nodes stay. package storage/overlay does the same to a layer that it unpacked.
func (x *Index) Settle(below func(path string) (Node, bool, error)) (*Index, error) {
	s := &settler{Index: *x, old: x, below: below}
	s.nodes, s.entries, s.xattrs = slices.Clone(x.nodes), make([]entry, 0, len(x.entries)), slices.Clone(x.xattrs)
	if err := s.directory(0, ""); err != nil {
		return nil, err
	}
	return &s.Index, nil
}

type settler struct {
	Index
	old   *Index
	below func(path string) (Node, bool, error)
}

func (s *settler) directory(number uint32, path string) error {
	if len(path) > maxPath {
		return invalid("a directory deeper than paths are long")
	}
	n := &s.nodes[number]
	if n.mode&impliedFlag != 0 {
		if err := s.inherit(n, path); err != nil {
			return err
		}
	}
	old := s.old.entriesOf(int(number))
	n.a = uint32(len(s.entries))
	for _, e := range old {
		if s.nodes[e.node].whiteout() {
			_, exists, err := s.below(joinPath(path, s.name(&e)))
			if err != nil {
				return err
			}
			if !exists {
				continue
			}
		}
		s.entries = append(s.entries, e)
	}
	n.b = uint32(len(s.entries)) - n.a
	for i := range old {
		if !s.nodes[old[i].node].dir() {
			continue
		}
		if err := s.directory(old[i].node, joinPath(path, s.name(&old[i]))); err != nil {
			return err
		}
	}
	return nil
}

// inherit gives n the attributes of the directory below, keeping its own marker.
func (s *settler) inherit(n *node, path string) error {
	there, exists, err := s.below(path)
	if err != nil || !exists || !there.Mode.IsDir() {
		return err
	}
	opaque := n.xattrs > 0 && s.xattrs[n.xattrs-1][opaqueXattr] != ""
	n.mode = typeDir | unixMode(there.Mode)
	n.uid, n.gid, n.sec, n.nsec = there.UID, there.GID, there.ModTime.Unix(), uint32(there.ModTime.Nanosecond())
	set := map[string]string{}
	for k, v := range there.Xattrs {
		if !isOverlayXattr(k) {
			set[k] = v
		}
	}
	if opaque {
		set[opaqueXattr] = "y"
	}
	if n.xattrs = 0; len(set) > 0 {
		s.xattrs = append(s.xattrs, set)
		n.xattrs = uint32(len(s.xattrs))
	}
	return nil
}

// unixMode is the inverse of fileMode, for directories.
func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		mode |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		mode |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		mode |= 0o1000
	}
	return mode
}
