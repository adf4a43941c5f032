package reference

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

const sum = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"alpine":                          "docker.io/library/alpine:latest",
		"alpine:3.20":                     "docker.io/library/alpine:3.20",
		"user/app":                        "docker.io/user/app:latest",
		"docker.io/alpine":                "docker.io/library/alpine:latest",
		"index.docker.io/alpine":          "docker.io/library/alpine:latest",
		"docker.io/user/app:V_1.-x":       "docker.io/user/app:V_1.-x",
		"localhost/x":                     "localhost/x:latest",
		"localhost:5000/x:tag":            "localhost:5000/x:tag",
		"127.0.0.1:5000/a/b":              "127.0.0.1:5000/a/b:latest",
		"[::1]:5000/a":                    "[::1]:5000/a:latest",
		"[2001:db8::1]/a":                 "[2001:db8::1]/a:latest",
		"ghcr.io/a/b-c__d.e/f":            "ghcr.io/a/b-c__d.e/f:latest",
		"MyHost/x":                        "MyHost/x:latest",
		"x@" + sum:                        "docker.io/library/x@" + sum,
		"x:t@" + sum:                      "docker.io/library/x:t@" + sum,
		"reg.example:443/x@" + sum:        "reg.example:443/x@" + sum,
		"a---b":                           "docker.io/library/a---b:latest",
		"localhost:5000":                  "docker.io/library/localhost:5000",
		"docker.io/library/alpine:latest": "docker.io/library/alpine:latest",
	} {
		r, err := Parse(in)
		if err != nil {
			t.Errorf("Parse(%q): %v", in, err)
			continue
		}
		if r.String() != want {
			t.Errorf("Parse(%q) = %q, want %q", in, r, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{
		"", "/", ":", "@", "a/", "/a", "a//b", "A", "docker.io/A", "a:", "a:.x", "a:-x", "a@", "a@sha256:00", "a@md5:d41d8cd98f00b204e9800998ecf8427e",
		"a b", "a\n", "a_-b", "a..b", "a___b", "-a", "a-", ".a", "_a", "a/../b", "../a", "a:b:c", "https://a/b", "host:port/a", "a.b:123456/c",
		"[::1/a", "[::1%eth0]/a", "[1.2.3.4]/a", "-a.b/c", "a.b-/c", "x@" + sum + "@" + sum, "ü", "a:ü",
		strings.Repeat("a", 64), strings.Repeat("a", 256), "a:" + strings.Repeat("b", 129), strings.Repeat("a", 10000),
	} {
		r, err := Parse(in)
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("Parse(%.80q) = %q, %v, want InvalidArgument", in, r, err)
		}
	}
}

func TestFamiliar(t *testing.T) {
	for in, want := range map[string]string{
		"alpine": "alpine", "docker.io/a/b:v": "a/b:v", "ghcr.io/a": "ghcr.io/a", "x@" + sum: "x@" + sum, "localhost:5000/library/x:1": "localhost:5000/library/x:1",
		"docker.io/library/a/b": "library/a/b",
	} {
		r, err := Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Familiar(); got != want {
			t.Errorf("Familiar of %q = %q, want %q", in, got, want)
		}
		again, err := Parse(r.Familiar())
		if err != nil || again != r {
			t.Errorf("familiar %q parses to %q, %v", r.Familiar(), again, err)
		}
	}
}

// FuzzParse: whatever is accepted is a fixed point, and short and long form mean the same.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"alpine", "localhost:5000/x:tag", "x@" + sum, "[::1]:5000/a", "a.b/c__d:e@" + sum, "docker.io/library/a/b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			return
		}
		for _, form := range []string{r.String(), r.Familiar()} {
			again, err := Parse(form)
			if err != nil || again != r {
				t.Fatalf("%q parses to %#v, whose form %q parses to %#v, %v", s, r, form, again, err)
			}
		}
		if strings.Contains(r.Repository, "..") || strings.HasPrefix(r.Repository, "/") || len(r.Name()) > maxName+1 {
			t.Fatalf("%q has repository %q", s, r.Repository)
		}
	})
}
