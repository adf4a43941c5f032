package changeset

import "time"

// Attributes are what a directory has besides what is in it.
type Attributes struct {
	UID, GID uint32
	Mode     uint32 // permissions, setuid, setgid and sticky
	ModTime  time.Time
	Xattrs   map[string]string // without those of overlayfs
}

// Look says whether the layers o.Lower show something at p, a path from their root, "." for that itself. For a directory it
// answers what it has; otherwise attributes are nil.
func Look(p string, o Options) (*Attributes, bool, error) {
	m, exists, err := lookUp(p, o)
	if err != nil || m == nil {
		return nil, exists, err
	}
	a := &Attributes{UID: m.uid, GID: m.gid, Mode: m.mode, ModTime: time.Unix(m.mtime.Sec, m.mtime.Nsec)}
	for _, x := range m.xattrs {
		if a.Xattrs == nil {
			a.Xattrs = map[string]string{}
		}
		a.Xattrs[x.name] = x.value
	}
	return a, true, nil
}
