package registry_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image/reference"
	"github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/testsuite/ociimage"
	double "github.com/slipwayd/slipway/testsuite/registry"
)

var ctx = context.Background()

func quick() registry.Config {
	return registry.Config{Backoff: time.Millisecond, MaxRetryAfter: time.Millisecond}
}

func remote(t *testing.T, name string, c registry.Config, o registry.Options) *registry.Remote {
	t.Helper()
	ref, err := reference.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	client := registry.New(c)
	t.Cleanup(func() { _ = client.Close() })
	r, err := client.Remote(ref, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// blob puts n random bytes into the double.
func blob(r *double.Registry, n int) (ocispec.Descriptor, []byte) {
	data := make([]byte, n)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(data)
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(data), Size: int64(n)}
	r.PutBlob(d.Digest, data)
	return d, data
}

func fetch(r *registry.Remote, d ocispec.Descriptor, offset, length int64) ([]byte, error) {
	body, err := r.Fetch(ctx, d, offset, length)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

func TestFetchRanges(t *testing.T) {
	d := double.Start(t)
	desc, data := blob(d, 1_000_000)
	for _, streams := range []int{1, 4} {
		c := quick()
		c.Streams, c.ChunkSize = streams, 10_000
		r := remote(t, d.Host()+"/app:v1", c, registry.Options{})
		for _, span := range [][2]int64{{0, -1}, {0, 1}, {1, -1}, {500_000, 100_000}, {999_999, -1}, {1_000_000, -1}, {0, 1_000_000}, {123_456, 654_321}} {
			end := int64(len(data))
			if span[1] >= 0 {
				end = span[0] + span[1]
			}
			got, err := fetch(r, desc, span[0], span[1])
			if err != nil || !bytes.Equal(got, data[span[0]:end]) {
				t.Errorf("%d streams, %v: %d bytes, %v", streams, span, len(got), err)
			}
		}
		if _, err := fetch(r, desc, 1_000_001, -1); err == nil {
			t.Errorf("%d streams: fetch beyond the end", streams)
		}
	}
}

func TestFetchFaults(t *testing.T) {
	for name, c := range map[string]struct {
		times int
		do    double.Fault
		ok    bool
	}{
		"no ranges":             {0, double.IgnoreRange(), true},
		"416":                   {0, double.NoRanges(), false},
		"cuts":                  {7, double.Cut(3000), true},
		"short 206":             {5, double.Shorten(100), true},
		"wrong Content-Range":   {0, double.ContentRange("bytes 0-9/10"), false},
		"no Content-Range":      {0, double.SetHeader("Content-Range", ""), false},
		"range of another size": {0, double.ContentRange("bytes 0-9999/2000000"), false},
		"500s":                  {4, double.Status(500), true},
		"drops":                 {4, double.Drop(), true},
	} {
		t.Run(name, func(t *testing.T) {
			d := double.Start(t)
			desc, data := blob(d, 1_000_000)
			d.Fault(double.Match{Digest: desc.Digest, Skip: 1, Times: c.times}, c.do)
			if name == "no ranges" {
				d.Fault(double.Match{Digest: desc.Digest}, c.do)
			}
			conf := quick()
			conf.Streams, conf.ChunkSize = 4, 10_000
			got, err := fetch(remote(t, d.Host()+"/app:v1", conf, registry.Options{}), desc, 0, -1)
			if c.ok != (err == nil) || err == nil && !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if n := d.Count(double.Match{Digest: desc.Digest}); name == "no ranges" && n != 1 {
				t.Errorf("%d requests, want one stream", n)
			}
		})
	}
}

// TestFetchClose ends a parallel fetch in the middle; the race detector and Close's wait tell the rest.
func TestFetchClose(t *testing.T) {
	d := double.Start(t)
	desc, data := blob(d, 1_000_000)
	c := quick()
	c.Streams, c.ChunkSize = 4, 10_000
	body, err := remote(t, d.Host()+"/app:v1", c, registry.Options{}).Fetch(ctx, desc, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	part := make([]byte, 25_000)
	if _, err := io.ReadFull(body, part); err != nil || !bytes.Equal(part, data[:25_000]) {
		t.Fatal(err)
	}
	if err := body.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestStalled(t *testing.T) {
	d := double.Start(t)
	desc, data := blob(d, 100_000)
	d.Fault(double.Match{Digest: desc.Digest, Times: 1}, double.Hang(1000, nil))
	c := quick()
	c.StallTimeout = 50 * time.Millisecond
	got, err := fetch(remote(t, d.Host()+"/app:v1", c, registry.Options{}), desc, 0, -1)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	d.Fault(double.Match{Digest: desc.Digest}, double.Hang(0, nil))
	c.Retries = 1
	if _, err := fetch(remote(t, d.Host()+"/app:v1", c, registry.Options{}), desc, 0, -1); !errdefs.IsUnavailable(err) {
		t.Errorf("a registry that never answers: %v", err)
	}
}

func credential(user, password string) registry.CredentialFunc {
	return func(context.Context, string) (registry.Credential, error) {
		return registry.Credential{Username: user, Password: password}, nil
	}
}

func TestAuthentication(t *testing.T) {
	for name, require := range map[string]func(*double.Registry){
		"basic": func(d *double.Registry) { d.RequireBasic(double.Basic{Username: "u", Password: "p"}) },
		"token": func(d *double.Registry) { d.RequireToken(double.Token{Username: "u", Password: "p"}) },
		// Tokens run out in the middle of a blob whose connections are cut.
		"short token": func(d *double.Registry) {
			d.RequireToken(double.Token{Username: "u", Password: "p", Uses: 2})
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := double.Start(t)
			built := d.Push("app:v1", ociimage.Image{})
			desc, data := blob(d, 100_000)
			d.Fault(double.Match{Digest: desc.Digest, Times: 6}, double.Cut(10_000))
			require(d)
			r := remote(t, d.Host()+"/app:v1", quick(), registry.Options{Credentials: credential("u", "p")})
			if got, err := r.Resolve(ctx); err != nil || got.Digest != built.Root.Digest {
				t.Fatalf("%+v, %v", got, err)
			}
			if got, err := fetch(r, desc, 0, -1); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			for name, o := range map[string]registry.Options{"anonymous": {}, "wrong password": {Credentials: credential("u", "x")}} {
				_, err := remote(t, d.Host()+"/app:v1", quick(), o).Resolve(ctx)
				if err == nil || !errdefs.IsUnauthorized(err) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
}

func TestDockerCredentials(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.json")
	auth := base64.StdEncoding.EncodeToString([]byte("u:p"))
	// The helper answers for the host on its standard input, as docker-credential-helpers do.
	helper := "#!/bin/sh\nread host\nprintf '{\"ServerURL\":\"%s\",\"Username\":\"h\",\"Secret\":\"s-%s\"}' \"$host\" \"$host\"\n"
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-slipwaytest"), []byte(helper), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	text := fmt.Sprintf(`{"auths":{"plain.example":{"auth":%q},"https://index.docker.io/v1/":{"auth":%q}},"credHelpers":{"helped.example":"slipwaytest"}}`, auth, auth)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	creds := registry.DockerCredentials(file)
	for host, want := range map[string]registry.Credential{
		"plain.example": {Username: "u", Password: "p"}, "registry-1.docker.io": {Username: "u", Password: "p"},
		"helped.example": {Username: "h", Password: "s-helped.example"}, "other.example": {},
	} {
		if got, err := creds(ctx, host); err != nil || got != want {
			t.Errorf("%s: %+v, %v", host, got, err)
		}
	}
}

// mirrored writes hosts.toml for "reg.example" with some hosts.
func mirrored(t *testing.T, text string) registry.Options {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "reg.example"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "reg.example", "hosts.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return registry.Options{HostsDirs: []string{dir}}
}

func TestMirrors(t *testing.T) {
	bad, good, upstream := double.Start(t), double.Start(t), double.Start(t)
	img := ociimage.Image{Layers: []ociimage.Layer{{Files: []ociimage.File{ociimage.Regular("f", 0o644, "x")}}}}
	built := upstream.Push("app:v1", img)
	good.Push("app:v1", img)
	bad.Fault(double.Match{}, double.Status(503))
	o := mirrored(t, fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\ncapabilities=[\"pull\"]\n[host.\"http://%s\"]\ncapabilities=[\"pull\"]\n[host.\"http://%s\".header]\nx-mirror=\"yes\"\n",
		upstream.Host(), bad.Host(), good.Host(), good.Host()))
	r := remote(t, "reg.example/app:v1", quick(), o)
	desc, err := r.Resolve(ctx)
	if err != nil || desc.Digest != built.Root.Digest {
		t.Fatalf("%+v, %v", desc, err)
	}
	if bad.Count(double.Match{})+good.Count(double.Match{}) != 0 {
		t.Error("mirrors without the capability were asked to resolve")
	}
	layer := built.Layers[0]
	data, err := fetch(r, layer, 0, -1)
	if err != nil || layer.Digest != digest.FromBytes(data) {
		t.Fatal(err)
	}
	if bad.Count(double.Match{}) != 1 || good.Count(double.Match{Method: "GET"}) != 1 || upstream.Count(double.Match{Digest: layer.Digest}) != 0 {
		t.Errorf("asked %d, %d, %d times", bad.Count(double.Match{}), good.Count(double.Match{}), upstream.Count(double.Match{}))
	}
	req := good.Requests()[0]
	if req.Header.Get("X-Mirror") != "yes" || !strings.Contains(req.Path, "ns=reg.example") {
		t.Errorf("request to the mirror: %s %v", req.Path, req.Header)
	}
	if up := upstream.Requests()[0]; up.Header.Get("X-Mirror") != "" {
		t.Errorf("the mirror's header went to the registry")
	}

	// A mirror without the blob, and a connection that a mirror cuts: the next host goes on.
	good.Fault(double.Match{Digest: layer.Digest}, double.Status(404))
	if _, err := fetch(r, layer, 0, -1); err != nil {
		t.Errorf("fall-over: %v", err)
	}
	// All fail: the registry's own error counts.
	upstream.Fault(double.Match{Digest: layer.Digest}, double.Status(403))
	if _, err := fetch(r, layer, 0, -1); err == nil {
		t.Error("fetched from nowhere")
	}
}

// TestTokenServer gets tokens of a server on another host of this machine, as registries inside of companies have it, but not
// of one that is not where the registry is.
func TestTokenServer(t *testing.T) {
	d := double.Start(t)
	desc, data := blob(d, 1000)
	var asked []string
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Skip("no second loopback address: ", err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		asked = append(asked, req.Host+req.URL.String())
		req.URL.Path = "/token"
		(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(&url.URL{Scheme: "http", Host: d.Host()}) }}).ServeHTTP(w, req)
	})}}
	server.Start()
	defer server.Close()
	d.RequireToken(double.Token{Username: "u", Password: "p", Realm: server.URL + "/jwt/auth?client=x"})
	r := remote(t, d.Host()+"/app:v1", quick(), registry.Options{Credentials: credential("u", "p")})
	if got, err := fetch(r, desc, 0, -1); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if len(asked) == 0 || !strings.HasPrefix(asked[0], l.Addr().String()+"/jwt/auth?") || !strings.Contains(asked[0], "client=x") || !strings.Contains(asked[0], "service=registry.test") {
		t.Errorf("asked %q", asked)
	}
	for _, realm := range []string{"http://169.254.169.254/token", "http://100.100.100.200/token", "ftp://127.0.0.2/token"} {
		d.RequireToken(double.Token{Username: "u", Password: "p", Realm: realm})
		r := remote(t, d.Host()+"/app:v1", quick(), registry.Options{Credentials: credential("u", "p")})
		if _, err := fetch(r, desc, 0, -1); err == nil || !strings.Contains(err.Error(), "bearer realm") {
			t.Errorf("%s: %v", realm, err)
		}
	}
}

func TestRedirects(t *testing.T) {
	d := double.Start(t)
	desc, data := blob(d, 200_000)
	d.RequireToken(double.Token{Username: "u", Password: "p"})
	d.Fault(double.Match{Method: "GET", Path: "/blobs/"}, d.Redirect(1))
	d.Fault(double.Match{Path: "/storage/", Times: 2}, double.Cut(50_000))
	r := remote(t, d.Host()+"/app:v1", quick(), registry.Options{Credentials: credential("u", "p")})
	if got, err := fetch(r, desc, 0, -1); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	for _, req := range d.Requests() {
		if req.Storage && req.Header.Get("Authorization") != "" {
			t.Error("the token went to another host")
		}
	}
}

func TestPlainHTTPHint(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	o := mirrored(t, fmt.Sprintf("server = \"https://%s\"", strings.TrimPrefix(s.URL, "http://")))
	_, err := remote(t, "reg.example/app:v1", quick(), o).Resolve(ctx)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "plain HTTP") {
		t.Errorf("https to an http server: %v", err)
	}
}

func TestTLS(t *testing.T) {
	d := double.New()
	s := httptest.NewUnstartedServer(d)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	built, err := ociimage.Image{}.Build()
	if err != nil {
		t.Fatal(err)
	}
	d.PushBuilt("app:v1", built)
	host := strings.TrimPrefix(s.URL, "https://")
	if _, err := remote(t, "reg.example/app:v1", quick(), mirrored(t, "server = \"https://"+host+"\"")).Resolve(ctx); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("unknown authority: %v", err)
	}
	desc, err := remote(t, "reg.example/app:v1", quick(), mirrored(t, "skip_verify = true\nserver = \"https://"+host+"\"")).Resolve(ctx)
	if err != nil || desc.Digest != built.Root.Digest {
		t.Errorf("skip_verify: %+v, %v", desc, err)
	}
}

func TestCancelled(t *testing.T) {
	d := double.Start(t)
	d.Fault(double.Match{}, double.Status(503))
	c := registry.Config{Backoff: time.Hour}
	stop := errors.New("enough")
	cctx, cancel := context.WithCancelCause(ctx)
	go cancel(stop)
	if _, err := remote(t, d.Host()+"/app:v1", c, registry.Options{}).Resolve(cctx); !errors.Is(err, stop) {
		t.Errorf("cancelled while waiting: %v", err)
	}
}

// TestMount uses a registry of its own, for the double mounts nothing.
func TestMount(t *testing.T) {
	desc := ocispec.Descriptor{Digest: digest.FromString("x"), Size: 1}
	cancelled := false
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case req.Method == "POST" && req.URL.Query().Get("from") == "other/app" && req.URL.Query().Get("mount") == desc.Digest.String():
			w.WriteHeader(http.StatusCreated)
		case req.Method == "POST":
			w.Header().Set("Location", "/upload/1")
			w.WriteHeader(http.StatusAccepted)
		case req.Method == "DELETE" && req.URL.Path == "/upload/1":
			cancelled = true
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer s.Close()
	r := remote(t, strings.TrimPrefix(s.URL, "http://")+"/app:v1", quick(), registry.Options{})
	if ok, err := r.Mount(ctx, desc, "other/app"); !ok || err != nil {
		t.Errorf("mount: %v, %v", ok, err)
	}
	if ok, err := r.Mount(ctx, desc, "third"); ok || err != nil || !cancelled {
		t.Errorf("mount of what is not there: %v, %v, upload cancelled: %v", ok, err, cancelled)
	}
}
