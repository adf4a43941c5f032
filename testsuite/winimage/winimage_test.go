package winimage_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"path"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/winimage"
)

// Every layer must have its directories before what is in them, and nothing twice: Windows takes no other.
func TestLayersAreInOrder(t *testing.T) {
	for name, l := range map[string]ociimage.Layer{
		"base":  winimage.Base(winimage.Dir("a/b"), winimage.File("a/b/c", "x"), winimage.File("hello", "x"), winimage.Stream("hello", "s", "y"), winimage.Junction("d", `C:\a`)),
		"child": winimage.Child(winimage.File("a/n", "x"), winimage.Gone("a/b/c"), winimage.Symlink("l", "a"), winimage.Hardlink("m", "a/n")),
	} {
		data, err := ociimage.TarBytes(l.Files)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{".": true}
		for r := tar.NewReader(bytes.NewReader(data)); ; {
			h, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if seen[h.Name] || !strings.Contains(h.Name, ".wh.") && !seen[path.Dir(h.Name)] {
				t.Errorf("%s: %s is twice or before its directory", name, h.Name)
			}
			seen[h.Name] = true
			if h.Typeflag == tar.TypeReg && !strings.ContainsAny(h.Name, ":") && !strings.Contains(h.Name, ".wh.") && h.PAXRecords["MSWINDOWS.rawsd"] == "" {
				t.Errorf("%s: %s has no security descriptor", name, h.Name)
			}
		}
	}
}

func TestIndex(t *testing.T) {
	built, err := winimage.Index("10.0.17763.5000", "10.0.20348.2000").Build()
	if err != nil {
		t.Fatal(err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(built.Bytes(built.Root), &index); err != nil {
		t.Fatal(err)
	}
	if len(index.Manifests) != 4 || index.Manifests[3].Platform.OSVersion != "10.0.20348.2000" || index.Manifests[3].Platform.OS != "windows" {
		t.Errorf("%+v", index.Manifests)
	}
	again, err := winimage.Index("10.0.17763.5000", "10.0.20348.2000").Build()
	if err != nil || again.Root.Digest != built.Root.Digest {
		t.Errorf("built again it is %s, %v; was %s", again.Root.Digest, err, built.Root.Digest)
	}
}
