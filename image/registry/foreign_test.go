package registry

import (
	"net/http"
	"net/url"
	"testing"

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
