package registry_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// fixture is a registry with one image of one layer.
func fixture(t *testing.T) (r *registry.Registry, layer []byte, path string) {
	t.Helper()
	r = registry.Start(t)
	built := r.Push("lib/hello:v1", ociimage.Image{Layers: []ociimage.Layer{{
		Files:       []ociimage.File{ociimage.Regular("hello", 0o644, strings.Repeat("hi ", 5000))},
		Compression: ociimage.None,
	}}})
	return r, built.Bytes(built.Layers[0]), "/v2/lib/hello/blobs/" + built.Layers[0].Digest.String()
}

type answer struct {
	status int
	header http.Header
	body   []byte
	err    error // of the request or of reading the body
}

func get(t *testing.T, r *registry.Registry, path string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.Host()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return answer{resp.StatusCode, resp.Header, body, err}
}

func TestServesImages(t *testing.T) {
	r, layer, path := fixture(t)
	m := get(t, r, "/v2/lib/hello/manifests/v1")
	var manifest ocispec.Manifest
	if err := errors.Join(m.err, json.Unmarshal(m.body, &manifest)); err != nil {
		t.Fatal(err)
	}
	if m.header.Get("Content-Type") != ocispec.MediaTypeImageManifest || m.header.Get("Docker-Content-Digest") != digest.FromBytes(m.body).String() {
		t.Fatalf("manifest's header is %v", m.header)
	}
	if byDigest := get(t, r, "/v2/lib/hello/manifests/"+digest.FromBytes(m.body).String()); !bytes.Equal(byDigest.body, m.body) {
		t.Fatal("the manifest differs by digest")
	}
	if b := get(t, r, path); b.status != 200 || !bytes.Equal(b.body, layer) {
		t.Fatalf("blob: %d, %d bytes", b.status, len(b.body))
	}
	for header, want := range map[string][]byte{
		"bytes=10-19":  layer[10:20],
		"bytes=15000-": layer[15000:],
		"bytes=-5":     layer[len(layer)-5:],
	} {
		b := get(t, r, path, "Range", header)
		if b.status != http.StatusPartialContent || !bytes.Equal(b.body, want) || !strings.HasSuffix(b.header.Get("Content-Range"), fmt.Sprint("/", len(layer))) {
			t.Errorf("range %s: %d, %d bytes, %s", header, b.status, len(b.body), b.header.Get("Content-Range"))
		}
	}
	if b := get(t, r, path, "Range", "bytes=999999-"); b.status != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("range behind the end: %d", b.status)
	}
	if b := get(t, r, "/v2/lib/hello/blobs/"+digest.FromString("none").String()); b.status != 404 {
		t.Errorf("unknown blob: %d", b.status)
	}
	if n := r.Count(registry.Match{Method: "GET", Digest: digest.FromBytes(layer)}); n != 5 {
		t.Errorf("%d requests for the layer counted, want 5", n)
	}
}

func TestFaults(t *testing.T) {
	r, layer, path := fixture(t)
	n := len(layer)
	flipped := bytes.Clone(layer)
	flipped[7] ^= 0xff
	for _, c := range []struct {
		name   string
		fault  registry.Fault
		header []string
		check  func(answer) bool
	}{
		{"status", registry.Status(503), nil, func(a answer) bool { return a.status == 503 && json.Valid(a.body) }},
		{"too many", registry.TooManyRequests(7), nil, func(a answer) bool { return a.status == 429 && a.header.Get("Retry-After") == "7" }},
		{"cut", registry.Cut(1000), nil, func(a answer) bool { return a.status == 200 && len(a.body) == 1000 && a.err == io.ErrUnexpectedEOF }},
		{"cut at 0", registry.Cut(0), nil, func(a answer) bool { return a.status == 200 && len(a.body) == 0 && a.err == io.ErrUnexpectedEOF }},
		{"drop", registry.Drop(), nil, func(a answer) bool { return a.status == 0 && a.err != nil }},
		{"corrupt", registry.Corrupt(7), nil, func(a answer) bool { return a.err == nil && bytes.Equal(a.body, flipped) }},
		{"replace", registry.Replace([]byte("x")), nil, func(a answer) bool { return a.err == nil && string(a.body) == "x" }},
		{"shorten", registry.Shorten(10), nil, func(a answer) bool { return a.err == nil && len(a.body) == n-10 }},
		{"short 206", registry.Shorten(10), []string{"Range", "bytes=0-99"}, func(a answer) bool {
			return a.status == 206 && len(a.body) == 90 && strings.HasPrefix(a.header.Get("Content-Range"), "bytes 0-99/")
		}},
		{"pad", registry.Pad(10), nil, func(a answer) bool { return a.err == nil && len(a.body) == n+10 }},
		{"no length", registry.NoLength(), nil, func(a answer) bool { return a.header.Get("Content-Length") == "" && bytes.Equal(a.body, layer) }},
		{"endless", registry.Endless(), nil, func(a answer) bool { return len(a.body) == 1<<20 && bytes.HasPrefix(a.body, layer) }},
		{"ignore range", registry.IgnoreRange(), []string{"Range", "bytes=5-"}, func(a answer) bool { return a.status == 200 && len(a.body) == n }},
		{"no ranges", registry.NoRanges(), []string{"Range", "bytes=5-"}, func(a answer) bool { return a.status == 416 }},
		{"content range", registry.ContentRange("bytes 0-9/10"), []string{"Range", "bytes=5-"}, func(a answer) bool {
			return a.status == 206 && a.header.Get("Content-Range") == "bytes 0-9/10" && len(a.body) == n-5
		}},
		{"header", registry.SetHeader("Docker-Content-Digest", "x"), nil, func(a answer) bool { return a.header.Get("Docker-Content-Digest") == "x" }},
		{"slow", registry.Slow(4000, time.Microsecond), nil, func(a answer) bool { return bytes.Equal(a.body, layer) }},
		{"hang", registry.Hang(10, closed()), nil, func(a answer) bool { return len(a.body) == 10 && a.err == io.ErrUnexpectedEOF }},
		{"then", registry.Then(registry.Status(500)), nil, func(a answer) bool { return a.status == 500 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.Heal()
			r.Fault(registry.Match{Path: "/blobs/", Skip: 1, Times: 1}, c.fault)
			for i := range 3 {
				a := get(t, r, path, c.header...)
				hit := i == 1
				if good := a.err == nil && (a.status == 200 && bytes.Equal(a.body, layer) || a.status == 206 && len(c.header) > 0); !hit && !good {
					t.Errorf("request %d, which the fault must not hit: %d, %d bytes, %v", i, a.status, len(a.body), a.err)
				}
				if hit && !c.check(a) {
					t.Errorf("faulty answer: %d, %d bytes, %v, %v", a.status, len(a.body), a.header, a.err)
				}
			}
		})
	}
}

func closed() <-chan struct{} {
	ch := make(chan struct{})
	close(ch)
	return ch
}

func TestBasic(t *testing.T) {
	r, _, path := fixture(t)
	r.RequireBasic(registry.Basic{Username: "u", Password: "p"})
	if a := get(t, r, path); a.status != 401 || !strings.HasPrefix(a.header.Get("Www-Authenticate"), "Basic ") {
		t.Errorf("without a password: %d %v", a.status, a.header)
	}
	if a := get(t, r, path, "Authorization", "Basic dTpw"); a.status != 200 {
		t.Errorf("with the password: %d", a.status)
	}
	r.AllowAll()
	if a := get(t, r, path); a.status != 200 {
		t.Errorf("after AllowAll: %d", a.status)
	}
}

func TestToken(t *testing.T) {
	r, _, path := fixture(t)
	r.RequireToken(registry.Token{Username: "u", Password: "p", Uses: 2})
	a := get(t, r, path)
	if want := `Bearer realm="http://` + r.Host() + `/token",service="registry.test",scope="repository:lib/hello:pull"`; a.status != 401 || a.header.Get("Www-Authenticate") != want {
		t.Fatalf("challenge %d %q", a.status, a.header.Get("Www-Authenticate"))
	}
	if a := get(t, r, "/token?scope=repository:lib/hello:pull"); a.status != 401 {
		t.Errorf("token without a password: %d", a.status)
	}
	fetch := func(scope string) string {
		a := get(t, r, "/token?service=registry.test&scope="+scope, "Authorization", "Basic dTpw")
		var tok struct{ Token string }
		if err := json.Unmarshal(a.body, &tok); err != nil || tok.Token == "" {
			t.Fatalf("token: %d %s", a.status, a.body)
		}
		return "Bearer " + tok.Token
	}
	token := fetch("repository:lib/hello:pull,push")
	for i, want := range []int{200, 200, 401} {
		if a := get(t, r, path, "Authorization", token); a.status != want {
			t.Errorf("use %d of a token for 2: %d, want %d", i+1, a.status, want)
		}
	}
	if a := get(t, r, path, "Authorization", fetch("repository:lib/other:pull")); a.status != 401 || !strings.Contains(a.header.Get("Www-Authenticate"), "insufficient_scope") {
		t.Errorf("token of another repository: %d %v", a.status, a.header)
	}
}

func TestRedirect(t *testing.T) {
	r, layer, path := fixture(t)
	r.Fault(registry.Match{Method: "GET", Path: "/v2/.*/blobs/"}, r.Redirect(1))
	a := get(t, r, path)
	location := a.header.Get("Location")
	if a.status != http.StatusTemporaryRedirect || !strings.HasPrefix(location, "http://localhost:") {
		t.Fatalf("%d to %q", a.status, location)
	}
	for i, want := range []int{200, 403} {
		resp, err := http.Get(location)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != want || want == 200 && !bytes.Equal(body, layer) {
			t.Errorf("use %d of a URL for 1: %d", i+1, resp.StatusCode)
		}
	}
	if last := r.Requests()[len(r.Requests())-1]; !last.Storage || last.Status != 403 {
		t.Errorf("last request is listed as %+v", last)
	}
}

func TestPushIndex(t *testing.T) {
	for _, format := range []ociimage.Format{ociimage.OCI, ociimage.Docker} {
		r := registry.Start(t)
		built := r.Push("multi", ociimage.Index{Format: format, Images: []ociimage.Image{
			{Format: format, Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}},
			{Format: format, Platform: ocispec.Platform{OS: "windows", Architecture: "amd64", OSVersion: "10.0.20348.1"}},
		}})
		for _, target := range []string{"latest", built.Root.Digest.String(), built.Manifests[1].Digest.String()} {
			if a := get(t, r, "/v2/multi/manifests/"+target); a.status != 200 {
				t.Errorf("%s: %d", target, a.status)
			}
		}
	}
}

func TestTLS(t *testing.T) {
	r := registry.New()
	ca, err := r.ListenTLS("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	for name, c := range map[string]struct {
		roots *x509.CertPool
		works bool
	}{"trusting": {pool, true}, "unknown authority": {x509.NewCertPool(), false}} {
		client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.roots}, DisableKeepAlives: true}}
		resp, err := client.Get("https://" + r.Host() + "/v2/")
		if err == nil {
			err = resp.Body.Close()
		}
		if works := err == nil; works != c.works {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDownAndUp(t *testing.T) {
	r, layer, path := fixture(t)
	for range 2 {
		if err := r.Down(); err != nil {
			t.Fatal(err)
		}
		if got := get(t, r, path); got.err == nil {
			t.Errorf("while it is down: %d", got.status)
		}
		if err := r.Up(); err != nil {
			t.Fatal(err)
		}
		if got := get(t, r, path); got.err != nil || !bytes.Equal(got.body, layer) {
			t.Errorf("when it is back: %d, %v", got.status, got.err)
		}
	}
	r.Fault(registry.Match{Times: 1}, registry.Unavailable(7))
	if got := get(t, r, path); got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") != "7" {
		t.Errorf("unavailable: %d %v", got.status, got.header)
	}
}
