package registry

import (
	"net"
	"net/http"
	"net/url"
	"os"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/image/reference"
)

// Whoever makes an image chooses the URLs of its foreign layers.
func TestForeignURLs(t *testing.T) {
	for raw, want := range map[string]struct{ anywhere, local bool }{
		"https://go.microsoft.com/fwlink/?linkid=1": {true, true},
		"http://go.microsoft.com/x":                 {},
		"https://user:secret@example.com/x":         {},
		"https://":                                  {},
		"ftp://example.com/x":                       {},
		"file:///etc/passwd":                        {},
		"https://127.0.0.1/x":                       {},
		"https://localhost:6443/x":                  {},
		"http://127.0.0.1:5000/x":                   {false, true},
		"http://[::1]:5000/x":                       {false, true},
		"/relative":                                 {},
	} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got := checkURL(u, false) == nil; got != want.anywhere {
			t.Errorf("%s, of a registry anywhere: %v", raw, got)
		}
		if got := checkURL(u, true) == nil; got != want.local {
			t.Errorf("%s, of a registry on this host: %v", raw, got)
		}
	}
}

func TestForeignRedirects(t *testing.T) {
	ref, err := reference.Parse("registry.example.com/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(Config{}).Remote(ref, Options{})
	if err != nil {
		t.Fatal(err)
	}
	via := []*http.Request{{URL: &url.URL{Scheme: "https", Host: "example.com"}}}
	for host, ok := range map[string]bool{"cdn.example.net": true, "127.0.0.1:2379": false} {
		if err := r.elsewhere.CheckRedirect(&http.Request{URL: &url.URL{Scheme: "https", Host: host}}, via); (err == nil) != ok {
			t.Errorf("redirect to %s: %v", host, err)
		}
	}
	if err := r.elsewhere.CheckRedirect(&http.Request{URL: via[0].URL}, make([]*http.Request, 10)); err == nil {
		t.Error("it may redirect without end")
	}
}

// TestForeignAddresses looks at what names resolve to, which a URL does not show.
func TestForeignAddresses(t *testing.T) {
	for address, ok := range map[string]bool{
		"127.0.0.1:443": false, "127.9.9.9:443": false, "[::1]:443": false, "[::ffff:127.0.0.1]:443": false, "0.0.0.0:443": false, "[::]:443": false,
		"169.254.169.254:443": false, "[fe80::1%lo]:443": false, "10.0.0.1:443": true, "93.184.216.34:443": true, "[2001:db8::1]:443": true,
	} {
		if err := notHere("tcp", address, nil); (err == nil) != ok || !ok && !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s: %v", address, err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, env := range []string{"HTTPS_PROXY", "https_proxy"} {
		if os.Getenv(env) != "" {
			t.Skip("a proxy connects for us")
		}
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for registry, ok := range map[string]bool{"registry.example.com": false, "localhost:5000": true} {
		client, err := New(Config{}).elsewhere(registry)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := client.Transport.(*http.Transport).DialContext(t.Context(), "tcp4", "localhost:"+port)
		if (err == nil) != ok {
			t.Errorf("an image of %s: %v", registry, err)
		}
		if err == nil {
			conn.Close()
		}
	}
}
