package startprofile

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

var (
	layerA, layerB = digest.FromString("a"), digest.FromString("b")
	both           = []digest.Digest{layerA, layerB}
)

func start(files ...Touch) Start { return Start{At: time.Unix(1, 0), Files: files, Watched: both} }

func touched(layer digest.Digest, path string, ms int64, ranges ...Range) Touch {
	return Touch{Layer: layer, Path: path, Millis: ms, Ranges: ranges, Whole: len(ranges) == 0}
}

func profile(image string, args ...string) *Profile {
	return &Profile{Image: digest.FromString(image), Command: Command(args), Args: Hash(args)}
}

// lines describes files in short.
func lines(p *Profile) string {
	var out []string
	for _, f := range p.Files {
		out = append(out, fmt.Sprintf("%s%v%d", f.Path, f.Ranges, f.Missed))
	}
	return strings.Join(out, " ")
}

func TestAdd(t *testing.T) {
	const k = 1 << 10
	for name, c := range map[string]struct {
		starts []Start
		want   string
	}{
		"order":          {[]Start{start(touched(layerA, "b", 3), touched(layerB, "a", 2))}, "a[]0 b[]0"},
		"joined ranges":  {[]Start{start(touched(layerA, "x", 0, Range{900 * k, 901 * k}, Range{0, 4 * k}, Range{60 * k, 61 * k}))}, "x[[0 62464] [921600 922624]]0"},
		"union":          {[]Start{start(touched(layerA, "x", 0, Range{0, 1})), start(touched(layerA, "x", 0, Range{500 * k, 501 * k}))}, "x[[0 1] [512000 513024]]0"},
		"unseen later":   {[]Start{start(touched(layerA, "x", 0, Range{0, 1})), start(touched(layerA, "x", 0))}, "x[[0 1]]0"},
		"opened only":    {[]Start{start(Touch{Layer: layerA, Path: "x"})}, ""},
		"missed is last": {[]Start{start(touched(layerA, "x", 0), touched(layerA, "y", 1)), start(touched(layerA, "y", 1))}, "y[]0 x[]1"},
		"not watched":    {[]Start{start(touched(layerA, "x", 0)), {Watched: []digest.Digest{layerB}}}, "x[]0"},
		"comes again":    {[]Start{start(touched(layerA, "x", 0)), start(), start(), start(touched(layerA, "x", 0))}, "x[]0"},
		"forgotten":      {[]Start{start(touched(layerA, "x", 0)), start(), start(), start(), start(), start()}, ""},
		"bad names":      {[]Start{start(touched(layerA, "../x", 0), touched(layerA, "/x", 0), touched(layerA, "\xff", 0), touched("no digest", "x", 0), touched(layerA, "", 0))}, ""},
	} {
		p := profile("image", "sh")
		for _, s := range c.starts {
			p.Add(s)
		}
		if got := lines(p); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if err := p.check(); err != nil || p.Starts != len(c.starts) {
			t.Errorf("%s: %v, %d starts", name, err, p.Starts)
		}
	}
}

// TestBounds makes a profile of more than it can hold.
func TestBounds(t *testing.T) {
	var s Start
	for i := range MaxFiles + 10 {
		f := touched(layerA, fmt.Sprintf("%0200d", i), int64(i))
		for j := range int64(100) {
			f.Ranges = append(f.Ranges, Range{j << 30, j<<30 + 1})
		}
		s.Files = append(s.Files, f)
	}
	p := profile("image", "sh")
	p.Add(s)
	data, err := p.Marshal()
	if err != nil || len(data) > MaxSize {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
	back, err := Parse(data)
	if err != nil || len(back.Files) < 1000 || back.Files[0].Path != fmt.Sprintf("%0200d", 0) || len(back.Files[0].Ranges) > MaxRanges {
		t.Errorf("%v, %d files", err, len(back.Files))
	}
}

func document(t testing.TB, change func(p *Profile)) []byte {
	t.Helper()
	p := profile("image", "sh")
	p.Add(start(touched(layerA, "bin/sh", 1), touched(layerB, "lib/c", 2, Range{0, 5}, Range{1 << 20, 1 << 21})))
	change(p)
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParse(t *testing.T) {
	if _, err := Parse(document(t, func(*Profile) {})); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(p *Profile){
		"version":        func(p *Profile) { p.Version = 2 },
		"image":          func(p *Profile) { p.Image = "sha256:../../x" },
		"args":           func(p *Profile) { p.Args = "../../../../" },
		"starts":         func(p *Profile) { p.Starts = 1 << 40 },
		"layer number":   func(p *Profile) { p.Files[0].Layer = 2 },
		"negative layer": func(p *Profile) { p.Files[0].Layer = -1 },
		"layer":          func(p *Profile) { p.Layers[0] = "x" },
		"layer twice":    func(p *Profile) { p.Layers[0] = p.Layers[1] },
		"file twice":     func(p *Profile) { p.Files[1] = p.Files[0] },
		"no path":        func(p *Profile) { p.Files[0].Path = "" },
		"root":           func(p *Profile) { p.Files[0].Path = "." },
		"absolute":       func(p *Profile) { p.Files[0].Path = "/x" },
		"dots":           func(p *Profile) { p.Files[0].Path = "a/../../x" },
		"up":             func(p *Profile) { p.Files[0].Path = "../x" },
		"NUL":            func(p *Profile) { p.Files[0].Path = "a\x00" },
		"long":           func(p *Profile) { p.Files[0].Path = strings.Repeat("a", 1<<16) },
		"backwards":      func(p *Profile) { p.Files[1].Ranges[0] = Range{5, 0} },
		"negative":       func(p *Profile) { p.Files[1].Ranges[0] = Range{-5, 1} },
		"overlap":        func(p *Profile) { p.Files[1].Ranges[1] = Range{4, 9} },
		"many ranges":    func(p *Profile) { p.Files[1].Ranges = make([]Range, 17) },
		"many files":     func(p *Profile) { p.Files = make([]File, MaxFiles+1) },
		"many layers":    func(p *Profile) { p.Layers = make([]digest.Digest, 501) },
		"much":           func(p *Profile) { p.Command = strings.Repeat("a", MaxSize) },
	} {
		if _, err := Parse(document(t, change)); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if _, err := Parse(append(document(t, func(*Profile) {}), "{}"...)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("two documents: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(document(f, func(*Profile) {}))
	f.Add([]byte(`{"version":1,"image":"sha256:","files":[{"l":9e99}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse(data)
		if err != nil {
			return
		}
		p.Add(start(touched(layerA, "bin/sh", 1)))
		again, err := p.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(again); err != nil {
			t.Errorf("cannot read what was written: %v", err)
		}
	})
}

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *Store, p *Profile, layers ...digest.Digest) {
	t.Helper()
	for _, l := range layers {
		p.Add(start(touched(l, "file", 0)))
	}
	if err := s.Put(p); err != nil {
		t.Fatal(err)
	}
}

func TestStore(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, profile("one", "sh"), layerA)
	put(t, s, profile("one", "python", "x.py"), layerA)
	put(t, s, profile("two", "sh"), layerB)
	for name, data := range map[string]string{"new-1": "half", "other": "not ours"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, dir) // as after a restart
	if _, err := os.Stat(filepath.Join(dir, "new-1")); err == nil {
		t.Error("an unfinished file stays")
	}
	if got := s.List(digest.FromString("one")); len(got) != 2 {
		t.Errorf("%d profiles", len(got))
	}
	for name, c := range map[string]struct {
		image, args string
		layers      []digest.Digest
		want        string
	}{
		"its own":          {"one", Hash([]string{"sh"}), nil, "sh"},
		"used last":        {"two", Hash([]string{"other"}), nil, "sh"},
		"shared layer":     {"three", Hash([]string{"python", "x.py"}), []digest.Digest{layerA}, "python"},
		"nothing known":    {"three", Hash(nil), []digest.Digest{digest.FromString("c")}, ""},
		"other image's sh": {"three", Hash([]string{"sh"}), []digest.Digest{layerB}, "sh"},
	} {
		p, err := s.Find(digest.FromString(c.image), c.args, c.layers)
		if c.want == "" {
			if !errdefs.IsNotFound(err) {
				t.Errorf("%s: %v, %v", name, p, err)
			}
		} else if err != nil || p.Command != c.want {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
	damaged := filepath.Join(dir, digest.FromString("two").Encoded()+"-"+Hash([]string{"sh"})+".json")
	if err := os.WriteFile(damaged, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(digest.FromString("two"), Hash([]string{"sh"})); !errdefs.IsNotFound(err) {
		t.Errorf("damaged: %v", err)
	}
	for i := range 2 * perImage {
		put(t, s, profile("many", fmt.Sprint(i)), layerA)
	}
	if got := s.List(digest.FromString("many")); len(got) != perImage || slices.ContainsFunc(got, func(p *Profile) bool { return p.Command == "0" }) {
		t.Errorf("%d profiles of one image", len(got))
	}
}
