package registry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestMatchesHost(t *testing.T) {
	for _, c := range []struct {
		pattern, host string
		want          bool
	}{
		{"registry.io", "registry.io", true},
		{"registry.io", "registry.io:5000", true},
		{"registry.io:5000", "registry.io:5000", true},
		{"registry.io:5000", "registry.io", false},
		{"*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu-west-1.amazonaws.com", true},
		{"*.io", "a.b.io", false},
		{"app*.k8s.io", "apps.k8s.io", true},
		{"gcr.io/project", "gcr.io", true},
		{"https://gcr.io/v1/", "gcr.io", true},
		{"", "gcr.io", false},
		{"[", "gcr.io", false},
	} {
		if got := matchesHost(c.pattern, c.host); got != c.want {
			t.Errorf("%q for %q: %t", c.pattern, c.host, got)
		}
	}
}

func FuzzMatchesHost(f *testing.F) {
	f.Add("*.io:5000/x", "a.io:5000")
	f.Fuzz(func(t *testing.T, pattern, host string) {
		if matchesHost(pattern, host) && strings.Count(host, ".") > strings.Count(pattern, ".") && !strings.Contains(host, ":") {
			t.Errorf("%q matches %q", pattern, host)
		}
	})
}

// helper writes a program that counts its runs in the file beside it.
func helper(t *testing.T, answer string) Provider {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("needs a shell")
	}
	program := filepath.Join(t.TempDir(), "helper")
	script := fmt.Sprintf("#!/bin/sh\ncat > %[1]s.asked\necho x >> %[1]s.runs\ncat <<'E'\n%[2]s\nE\n", program, answer)
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return Provider{Program: program, Match: []string{"*.example.com"}}
}

func runs(p Provider) int {
	data, _ := os.ReadFile(p.Program + ".runs")
	return strings.Count(string(data), "x")
}

func TestProviders(t *testing.T) {
	p := helper(t, `{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","cacheDuration":"1h",
		"auth":{"*.example.com":{"username":"any","password":"1"},"a.example.com":{"username":"me","password":"secret"}}}`)
	creds := Providers([]Provider{p}, func(context.Context, string) (Credential, error) { return Credential{Username: "docker"}, nil })
	for range 2 { // the second from the cache
		if c, err := creds(t.Context(), "a.example.com"); err != nil || c != (Credential{Username: "me", Password: "secret"}) {
			t.Errorf("%+v, %v", c, err)
		}
	}
	if n := runs(p); n != 1 {
		t.Errorf("it ran %d times", n)
	}
	if asked, _ := os.ReadFile(p.Program + ".asked"); !strings.Contains(string(asked), `"image":"a.example.com"`) {
		t.Errorf("it was asked %s", asked)
	}
	if c, err := creds(t.Context(), "b.example.com"); err != nil || c.Username != "any" {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := creds(t.Context(), "other.org"); err != nil || c.Username != "docker" {
		t.Errorf("a registry of nobody's: %+v, %v", c, err)
	}
}

func TestProviderWithoutCache(t *testing.T) {
	p := helper(t, `{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheDuration":"0s","auth":{}}`)
	p.CacheFor = time.Hour // which the answer overrules
	creds := Providers([]Provider{p}, nil)
	for range 2 {
		if c, err := creds(t.Context(), "a.example.com"); err != nil || c != (Credential{}) {
			t.Errorf("%+v, %v", c, err)
		}
	}
	if n := runs(p); n != 2 {
		t.Errorf("it ran %d times", n)
	}
}

func TestBadProviders(t *testing.T) {
	for answer, want := range map[string]error{
		"nonsense":           errdefs.ErrFailedPrecondition,
		`{"kind":"Pod"}`:     errdefs.ErrFailedPrecondition,
		"E\nexit 1\ncat <<E": errdefs.ErrUnavailable,
	} {
		p := helper(t, answer)
		if _, err := Providers([]Provider{p}, nil)(t.Context(), "a.example.com"); !errors.Is(err, want) {
			t.Errorf("%q: %v", answer, err)
		}
	}
	if _, err := Providers([]Provider{{Program: "/nonexistent", Match: []string{"x"}}}, nil)(t.Context(), "x"); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("no such program: %v", err)
	}
}
