package startprofile

import (
	"cmp"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// forgetAfter is how many starts in a row a file may not be touched in before it is no part of the profile any more.
const forgetAfter = 5

// joinGap is how many bytes may lie between two ranges that are kept as one.
const joinGap = 64 << 10

// Start is what one start touched.
type Start struct {
	At    time.Time
	Files []Touch
	// Watched are the layers that it was seen to touch or not to touch; of others nothing is known.
	Watched []digest.Digest
}

// Touch is a file that a start opened.
type Touch struct {
	Layer  digest.Digest
	Path   string
	Millis int64
	Ranges []Range // that were read, in any order
	Whole  bool    // it may have been read in whole, unseen
}

// Add makes one more start part of the profile.
func (p *Profile) Add(s Start) {
	p.Version, p.Recorded = 1, s.At.UTC().Truncate(time.Second)
	p.Starts = min(p.Starts+1, maxStarts)
	type name struct {
		layer digest.Digest
		path  string
	}
	before := make(map[name]File, len(p.Files))
	for _, f := range p.Files {
		before[name{p.Layers[f.Layer], f.Path}] = f
	}
	old, oldLayers := p.Files, p.Layers
	p.Files, p.Layers = nil, nil
	for _, t := range s.Files {
		if !validPath(t.Path) || t.Layer.Validate() != nil {
			continue
		}
		n := name{t.Layer, t.Path}
		f, known := before[n]
		switch {
		case !known && !t.Whole && len(t.Ranges) == 0:
			continue // opened, but not read
		case t.Whole && len(t.Ranges) == 0 && known:
			// read as before, for all that is known
		case t.Whole:
			f.Ranges = nil
		case !known || len(f.Ranges) > 0:
			f.Ranges = join(append(slices.Clone(f.Ranges), t.Ranges...))
		}
		p.add(t.Layer, File{Path: t.Path, Millis: max(0, t.Millis), Ranges: f.Ranges})
		delete(before, n)
	}
	for _, f := range old {
		layer := oldLayers[f.Layer]
		if _, left := before[name{layer, f.Path}]; !left {
			continue
		}
		if slices.Contains(s.Watched, layer) {
			f.Missed++
		}
		if f.Missed < forgetAfter {
			p.add(layer, f)
		}
	}
	slices.SortStableFunc(p.Files, func(a, b File) int { return cmp.Or(cmp.Compare(a.Missed, b.Missed), cmp.Compare(a.Millis, b.Millis)) })
	if len(p.Files) > MaxFiles {
		p.Files = p.Files[:MaxFiles]
	}
}

func (p *Profile) add(layer digest.Digest, f File) {
	f.Layer = slices.Index(p.Layers, layer)
	if f.Layer < 0 {
		if len(p.Layers) == maxLayers {
			return
		}
		f.Layer = len(p.Layers)
		p.Layers = append(p.Layers, layer)
	}
	p.Files = append(p.Files, f)
}

// join sorts ranges and makes one of those that touch or almost do; and of those with the least between them, until they are few enough.
func join(all []Range) []Range {
	all = slices.DeleteFunc(all, func(r Range) bool { return r[0] < 0 || r[1] <= r[0] })
	slices.SortFunc(all, func(a, b Range) int { return cmp.Compare(a[0], b[0]) })
	for gap := int64(joinGap); ; gap *= 2 {
		var out []Range
		for _, r := range all {
			if last := len(out) - 1; last >= 0 && r[0]-out[last][1] <= gap {
				out[last][1] = max(out[last][1], r[1])
			} else {
				out = append(out, r)
			}
		}
		if all = out; len(all) <= MaxRanges || gap > 1<<60 {
			return all
		}
	}
}

// Size answers how many bytes of files the profile names, without those of files that it names whole.
func (p *Profile) Size() (sum int64) {
	for _, f := range p.Files {
		for _, r := range f.Ranges {
			sum += r[1] - r[0]
		}
	}
	return sum
}
