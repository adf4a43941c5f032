// Package startprofile knows what starts of images read: which files, in which order, and what of them.
//
// It owns the form of a profile (see Profile), how the profiles of several starts become one, and the directory in which a host
// keeps them, apart from images and content: a profile is of use when its image is gone. Recording and replaying is package
// engine's, with package storage/lazyfuse. It imports nothing of Slipway.
//
// What a crash leaves: temporary files, which Open removes. A profile is written whole or not at all; to lose one costs time at the
// next start and nothing else. Profiles come from other hosts too, so all that Parse answers is within bounds; a wrong one has bytes
// fetched in vain and can do nothing else.
package startprofile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Bounds of a profile.
const (
	MaxSize   = 1 << 20 // bytes of the document
	MaxFiles  = 8192
	MaxRanges = 16 // of one file

	maxLayers  = 500
	maxPath    = 4096
	maxCommand = 100
	maxStarts  = 1 << 20
)

// Profile is what starts of one image with one command line have read. Its document is this in JSON.
type Profile struct {
	Version int           `json:"version"` // 1
	Image   digest.Digest `json:"image"`   // manifest of one platform
	// Command is the name of the program, for people, and Args what Hash makes of the whole command line, which may hold secrets.
	Command  string          `json:"command"`
	Args     string          `json:"args"`
	Origin   string          `json:"origin,omitempty"` // where it comes from, when not of this host
	Starts   int             `json:"starts"`           // how many it is made of
	Recorded time.Time       `json:"recorded"`         // the last of them
	Layers   []digest.Digest `json:"layers"`           // blobs that Files are in
	Files    []File          `json:"files"`            // in the order in which starts came to them
}

// File is one file of a layer.
type File struct {
	Layer  int    `json:"l"` // number in Layers
	Path   string `json:"p"` // from the layer's root, without a slash in front
	Millis int64  `json:"ms"`
	// Ranges are what was read of it, in order; all of it when there are none.
	Ranges []Range `json:"r,omitempty"`
	Missed int     `json:"m,omitempty"` // starts since it was last read
}

// Range is the bytes [0], up to but without [1].
type Range [2]int64

// Hash answers how a command line is named in profiles.
func Hash(args []string) string {
	h := sha256.New()
	for _, a := range args {
		fmt.Fprintf(h, "%d:%s", len(a), a)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Command answers how the program of a command line is called in profiles.
func Command(args []string) string {
	if len(args) == 0 {
		return ""
	}
	name := strings.ToValidUTF8(path.Base(args[0]), "?")
	for len(name) > maxCommand {
		_, size := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-size]
	}
	return name
}

// Parse reads a profile's document, of anybody. InvalidArgument when it is none, OutOfRange when it is beyond the bounds.
func Parse(data []byte) (*Profile, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("the start profile has %d bytes: %w", len(data), errdefs.ErrOutOfRange)
	}
	var p Profile
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&p); err != nil {
		return nil, invalid("it cannot be read: %v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, invalid("something comes after its end")
	}
	return &p, p.check()
}

func (p *Profile) check() error {
	switch {
	case p.Version != 1:
		return fmt.Errorf("the start profile is of version %d: %w", p.Version, errdefs.ErrNotImplemented)
	case p.Image.Validate() != nil || p.Image.Algorithm() != digest.SHA256:
		return invalid("its image is %.100q", p.Image)
	case !isHash(p.Args) || len(p.Command) > maxCommand || len(p.Origin) > maxPath:
		return invalid("it is of the command line %.100q", p.Args)
	case p.Starts < 1 || p.Starts > maxStarts:
		return invalid("it is made of %d starts", p.Starts)
	case len(p.Layers) > maxLayers || len(p.Files) > MaxFiles:
		return fmt.Errorf("the start profile has %d files in %d layers: %w", len(p.Files), len(p.Layers), errdefs.ErrOutOfRange)
	}
	for i, l := range p.Layers {
		if l.Validate() != nil || slices.Contains(p.Layers[:i], l) {
			return invalid("it has a bad layer %.100q", l)
		}
	}
	type name struct {
		layer int
		path  string
	}
	seen := make(map[name]bool, len(p.Files))
	for _, f := range p.Files {
		if err := f.check(len(p.Layers)); err != nil {
			return err
		}
		if n := (name{f.Layer, f.Path}); seen[n] {
			return invalid("it names the file %.100q twice", f.Path)
		} else {
			seen[n] = true
		}
	}
	return nil
}

func (f *File) check(layers int) error {
	if f.Layer < 0 || f.Layer >= layers || !validPath(f.Path) || f.Millis < 0 || f.Missed < 0 || f.Missed > maxStarts || len(f.Ranges) > MaxRanges {
		return invalid("it has a bad entry for file %.100q", f.Path)
	}
	end := int64(-1)
	for _, r := range f.Ranges {
		if r[0] <= end || r[1] <= r[0] {
			return invalid("it has a bad range of file %.100q", f.Path)
		}
		end = r[1]
	}
	return nil
}

// validPath says whether a path can be in a profile: names of other bytes than UTF-8 cannot.
func validPath(p string) bool {
	return len(p) <= maxPath && utf8.ValidString(p) && p != "." && p == path.Clean(p) && p[0] != '/' && p != ".." &&
		!strings.HasPrefix(p, "../") && !strings.ContainsRune(p, 0)
}

func isHash(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 8 && s == strings.ToLower(s)
}

// Marshal answers the profile's document. What is too much of it goes: the files that starts come to last.
func (p *Profile) Marshal() ([]byte, error) {
	if len(p.Files) > MaxFiles {
		p.Files = p.Files[:MaxFiles]
	}
	for {
		data, err := json.Marshal(p)
		if err != nil || len(data) <= MaxSize {
			return data, err
		}
		p.Files = p.Files[:len(p.Files)*3/4]
	}
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("the start profile is wrong: "+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}
