package image

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/testsuite/ociimage"
	double "github.com/slipwayd/slipway/testsuite/registry"
	"github.com/slipwayd/slipway/testsuite/winimage"
)

// versions are of Windows Server 2016, 2019 (two revisions), 2022 (two revisions), 23H2 and 2025.
var versions = []string{"10.0.14393.5000", "10.0.17763.100", "10.0.17763.6000", "10.0.20348.9", "10.0.20348.2000", "10.0.25398.1", "10.0.26100.1"}

// One index is pulled by hosts of every kind; each gets the image that runs there best.
func TestIndexOfManyPlatforms(t *testing.T) {
	r := double.Start(t)
	built := r.Push("app:v1", winimage.Index(versions...))
	for host, want := range map[string]string{
		"linux/amd64":                        "linux/amd64",
		"linux/arm64/v8":                     "linux/arm64/v8",
		"windows(10.0.14393)/amd64":          "10.0.14393.5000",
		"windows(10.0.17763)/amd64":          "10.0.17763.6000", // the newest revision of the same build
		"windows(10.0.17763.1)/amd64":        "10.0.17763.6000",
		"windows(10.0.18362)/amd64":          "", // before 2022 the build must be the same
		"windows(10.0.18362+hyperv)/amd64":   "10.0.17763.6000",
		"windows(10.0.20348)/amd64":          "10.0.20348.2000",
		"windows(10.0.20348+hyperv)/amd64":   "10.0.20348.2000", // the same build, not the newest that a machine could run
		"windows(10.0.22621)/amd64":          "10.0.20348.2000", // Windows 11
		"windows(10.0.25398)/amd64":          "10.0.25398.1",
		"windows(10.0.26100)/amd64":          "10.0.26100.1",
		"windows(10.0.26200)/amd64":          "10.0.26100.1", // the newest that runs
		"windows(10.0.10240)/amd64":          "",             // older than all
		"windows(10.0.10240+hyperv)/amd64":   "",
		"windows(6.3.9600)/amd64":            "",
		"windows(11.0.26100)/amd64":          "",
		"windows(10.0.20348)/arm64":          "",
		"windows(/)/amd64":                   "10.0.26100.1", // nobody knows the host: the newest
		"windows(10.0.26100+hyperv)/amd64":   "10.0.26100.1",
		"windows(10.0.26100+win32k)/amd64":   "10.0.26100.1",
		"windows(nonsense)/amd64":            "10.0.26100.1",
		"windows(10.0.99999999999999)/amd64": "10.0.26100.1",
	} {
		p, err := platforms.Parse(strings.Replace(host, "(/)", "", 1))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(host, "(/)") && runtime.GOOS == "windows" {
			continue
		}
		o, _, _ := options(r, "app:v1")
		o.Platforms = []ocispec.Platform{p}
		got, err := Pull(context.Background(), o)
		if want == "" {
			if !errdefs.IsNotFound(err) {
				t.Errorf("%s: %v, %v", host, got.Manifest.Platform, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		if have := got.Manifest.Platform; have.OSVersion != want && platforms.Format(*have) != want {
			t.Errorf("%s: got %s, want %s", host, platforms.FormatAll(*have), want)
		}
		// What is here is found in the same way.
		if desc, _, err := Manifest(context.Background(), o.Store, built.Root, &p); err != nil || desc.Digest != got.Manifest.Digest {
			t.Errorf("%s: Manifest %v, %v", host, desc.Platform, err)
		}
	}
}

func TestOlderBuildsSayHow(t *testing.T) {
	r := double.Start(t)
	r.Push("app:v1", winimage.Index("10.0.17763.1"))
	r.Push("single:v1", winimage.Image("10.0.17763.1"))
	r.Push("newer:v1", winimage.Image("10.0.26100.1"))
	for name, hint := range map[string]bool{"app:v1": true, "single:v1": true, "newer:v1": false} {
		o, _, layers := options(r, name)
		o.Platforms = []ocispec.Platform{{OS: "windows", Architecture: "amd64", OSVersion: "10.0.20348"}}
		_, err := Pull(context.Background(), o)
		if !errdefs.IsNotFound(err) || strings.Contains(err.Error(), "windows(10.0.20348+hyperv)/amd64") != hint || len(layers.committed) > 0 {
			t.Errorf("%s: %v, and %d layers", name, err, len(layers.committed))
		}
	}
}

// An index may say Windows and no build; the configuration knows it.
func TestIndexWithoutBuilds(t *testing.T) {
	for _, test := range []struct {
		host, want string
	}{{"10.0.17763", "10.0.17763.1"}, {"10.0.20348", "10.0.20348.1"}, {"10.0.18362", ""}} {
		r := double.Start(t)
		built, err := winimage.Index("10.0.20348.1", "10.0.17763.1").Build()
		if err != nil {
			t.Fatal(err)
		}
		for i := range built.Manifests {
			built.Manifests[i].Platform.OSVersion = ""
		}
		data, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: built.Root.MediaType, Manifests: built.Manifests})
		if err != nil {
			t.Fatal(err)
		}
		built.Root.Digest, built.Root.Size = digest.FromBytes(data), int64(len(data))
		built.Blobs[built.Root.Digest] = ociimage.Blob{MediaType: built.Root.MediaType, Data: data}
		r.PushBuilt("app:v1", built)
		o, store, _ := options(r, "app:v1")
		o.Platforms = []ocispec.Platform{{OS: "windows", Architecture: "amd64", OSVersion: test.host}}
		got, err := Pull(context.Background(), o)
		if test.want == "" {
			if !errdefs.IsNotFound(err) {
				t.Errorf("host %s: %v", test.host, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("host %s: %v", test.host, err)
			continue
		}
		img, _, err := Config(context.Background(), store, got.Target, &o.Platforms[0])
		if err != nil || img.OSVersion != test.want {
			t.Errorf("host %s: got %s, %v", test.host, img.OSVersion, err)
		}
	}
}

// foreignImage is an image whose base is not in the registry but at url.
func foreignImage(t *testing.T, r *double.Registry, img ociimage.Image, mediaType, url string) (base []byte) {
	t.Helper()
	img.Layers[0].MediaType, img.Layers[0].URLs = mediaType, []string{"ftp://example.com/x", url}
	built := r.Push("app:v1", img)
	r.Fault(double.Match{Digest: built.Layers[0].Digest}, double.Status(http.StatusNotFound))
	return built.Bytes(built.Layers[0])
}

func TestForeignLayers(t *testing.T) {
	for _, mediaType := range []string{dockerForeign + ".gzip", ociForeign + "+gzip"} {
		var base []byte
		asked := 0
		elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			asked++
			if len(req.Header["Authorization"])+len(req.Header["X-Secret"]) > 0 {
				t.Error("the registry's secrets went elsewhere")
			}
			_, _ = w.Write(base)
		}))
		t.Cleanup(elsewhere.Close)
		r := double.Start(t)
		base = foreignImage(t, r, winimage.Image("10.0.20348.1"), mediaType, elsewhere.URL+"/layer")
		o, _, layers := options(r, "app:v1")
		o.Remote.Header = http.Header{"X-Secret": {"x"}}
		o.Platforms = []ocispec.Platform{{OS: "windows", Architecture: "amd64", OSVersion: "10.0.20348"}}
		if _, err := Pull(context.Background(), o); err != nil || len(layers.committed) != 2 || asked != 1 {
			t.Errorf("%s: %v, %d layers, asked %d times", mediaType, err, len(layers.committed), asked)
		}

		// A registry that has the layer is asked first.
		r.Heal()
		o2, _, layers := options(r, "app:v1")
		o2.Platforms = o.Platforms
		if _, err := Pull(context.Background(), o2); err != nil || len(layers.committed) != 2 || asked != 1 {
			t.Errorf("from the registry: %v, %d layers, asked %d times", err, len(layers.committed), asked)
		}
	}
}

func TestForeignLayersAreNotTrusted(t *testing.T) {
	answer := func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("other bytes")) }
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { answer(w, req) }))
	t.Cleanup(elsewhere.Close)
	r := double.Start(t)
	foreignImage(t, r, winimage.Image("10.0.20348.1"), dockerForeign+".gzip", elsewhere.URL)
	o, _, layers := options(r, "app:v1")
	o.Platforms = []ocispec.Platform{{OS: "windows", Architecture: "amd64", OSVersion: "10.0.20348"}}
	for name, a := range map[string]http.HandlerFunc{
		"other bytes": answer,
		"not found":   http.NotFound,
		"a redirect to another scheme": func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, "http://192.0.2.1/", http.StatusFound)
		},
	} {
		answer = a
		if _, err := Pull(context.Background(), o); err == nil || len(layers.committed)+layers.staged > 0 {
			t.Errorf("%s: %v, %d layers", name, err, len(layers.committed))
		} else {
			t.Log(err)
		}
	}
	// An image of Linux has no business elsewhere.
	asked := false
	answer = func(http.ResponseWriter, *http.Request) { asked = true }
	foreignImage(t, r, ociimage.Image{Layers: []ociimage.Layer{layer("a", "b")}}, dockerForeign+".gzip", elsewhere.URL)
	o.Platforms = []ocispec.Platform{{OS: "linux", Architecture: runtime.GOARCH}}
	if _, err := Pull(context.Background(), o); !errdefs.IsNotImplemented(err) || asked {
		t.Errorf("Linux: %v, asked %v", err, asked)
	}
}

func FuzzWindowsVersion(f *testing.F) {
	for _, v := range append(versions, "", "10.0", "10.0.x", "-1.0.0", "1.2.3.4.5", "10.0.20348.") {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, ok := parseVersion(s)
		if !ok && v != (windowsVersion{}) || min(v.major, v.minor, v.build, v.revision) < 0 {
			t.Errorf("%q is %+v", s, v)
		}
	})
}
