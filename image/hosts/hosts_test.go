package hosts

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// write makes dir/name/file for each pair.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func urls(hosts []Host) string {
	var s []string
	for _, h := range hosts {
		s = append(s, h.URL.String())
	}
	return strings.Join(s, " ")
}

func TestLoadWithoutFiles(t *testing.T) {
	for registry, want := range map[string]string{
		"docker.io":         "https://registry-1.docker.io/v2",
		"ghcr.io":           "https://ghcr.io/v2",
		"localhost:5000":    "http://localhost:5000/v2",
		"127.0.0.1:5000":    "http://127.0.0.1:5000/v2",
		"127.9.9.9":         "http://127.9.9.9/v2",
		"[::1]:5000":        "http://[::1]:5000/v2",
		"[2001:db8::1]:443": "https://[2001:db8::1]:443/v2",
		"128.0.0.1:5000":    "https://128.0.0.1:5000/v2",
	} {
		hosts, err := Load([]string{t.TempDir(), "/nonexistent"}, registry, Default{})
		if err != nil || urls(hosts) != want {
			t.Errorf("Load(%q) = %q, %v, want %q", registry, urls(hosts), err, want)
		}
	}
	hosts, err := Load(nil, "reg.lan", Default{PlainHTTP: true})
	if err != nil || urls(hosts) != "http://reg.lan/v2" {
		t.Errorf("plain HTTP: %q, %v", urls(hosts), err)
	}
}

const sample = `
server = "https://up.example"
[host."https://z.example"]
  capabilities = ["pull", "resolve"]
  dial_timeout = "3s"
[host."http://a.example:8080/mirror"]
  skip_verify = true
  [host."http://a.example:8080/mirror".header]
    x-one = "1"
    x-two = ["2", "3"]
[host."https://m.example/custom/path/"]
  override_path = true
[host."b.example"]
[host."127.0.0.1:7"]
[host."https://c.example/v2"]
`

func TestLoadFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"reg.example/hosts.toml": sample, "_default/hosts.toml": `[host."https://any.example"]`, "r_500_/hosts.toml": `server="http://r:501"`})
	hosts, err := Load([]string{"/nonexistent", dir}, "reg.example", Default{})
	if err != nil {
		t.Fatal(err)
	}
	want := "https://z.example/v2 http://a.example:8080/mirror/v2 https://m.example/custom/path https://b.example/v2 http://127.0.0.1:7/v2 https://c.example/v2 https://up.example/v2"
	if got := urls(hosts); got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	if h := hosts[0]; h.Capabilities != Pull|Resolve || h.DialTimeout != 3*time.Second || h.Has(Push) || !h.Has(Pull) {
		t.Errorf("first host: %+v", h)
	}
	if h := hosts[1]; !h.TLS.SkipVerify || h.Header.Get("X-One") != "1" || len(h.Header.Values("x-two")) != 2 || h.Capabilities != All {
		t.Errorf("second host: %+v", h)
	}
	if hosts, err = Load([]string{dir}, "other.example", Default{}); err != nil || urls(hosts) != "https://any.example/v2 https://other.example/v2" {
		t.Errorf("_default: %s, %v", urls(hosts), err)
	}
	if hosts, err = Load([]string{dir}, "r:500", Default{}); err != nil || urls(hosts) != "http://r:501/v2" {
		t.Errorf("directory without colon: %s, %v", urls(hosts), err)
	}
}

func TestOrder(t *testing.T) {
	for name, text := range map[string]string{
		"sub-tables first": "[host.\"https://b\".header]\nx=\"1\"\n[host.\"https://a\"]\n[host.\"https://c\"]",
		"keys in [host]":   "[host]\n\"https://b\" = {}\n\"https://a\" = {}\n\"https://c\" = {}",
		"dotted keys":      "host.\"https://b\".skip_verify = true\nhost.\"https://a\".skip_verify = true\nhost.\"https://c\".skip_verify=false",
	} {
		hosts, err := parse([]byte(text), "r.example", Default{})
		if err != nil || urls(hosts) != "https://b/v2 https://a/v2 https://c/v2 https://r.example/v2" {
			t.Errorf("%s: %s, %v", name, urls(hosts), err)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"not TOML":           `server = `,
		"scheme":             `server = "ftp://x"`,
		"user in URL":        `server = "https://u:p@x"`,
		"no host":            `[host."https://"]`,
		"capability":         "[host.\"https://x\"]\ncapabilities=[\"fly\"]",
		"header name":        "[host.\"https://x\".header]\n\"a b\"=\"1\"",
		"header value":       "[host.\"https://x\".header]\na=\"1\\n2\"",
		"header type":        "[host.\"https://x\".header]\na=1",
		"ca type":            `ca = 1`,
		"ca not there":       `ca = "none.pem"`,
		"ca not PEM":         `ca = "hosts.toml"`,
		"client three":       `client = [["a","b","c"]]`,
		"client not there":   `client = "none.pem"`,
		"dial_timeout":       `dial_timeout = "soon"`,
		"dial_timeout below": `dial_timeout = "-1s"`,
	} {
		dir := t.TempDir()
		write(t, dir, map[string]string{"x/hosts.toml": text})
		hosts, err := Load([]string{dir}, "x", Default{})
		if !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: %s, %v", name, urls(hosts), err)
		}
	}
	dir := t.TempDir()
	write(t, dir, map[string]string{"x/hosts.toml": "\nserver = [\n"})
	if _, err := Load([]string{dir}, "x", Default{}); err == nil || !strings.Contains(err.Error(), "x/hosts.toml: line 2, column") {
		t.Errorf("bad TOML gives %v, want its place", err)
	}
	for _, registry := range []string{"", ".", "..", "a/b", `a\b`} {
		if _, err := Load([]string{t.TempDir()}, registry, Default{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("registry %q: %v", registry, err)
		}
	}
}

func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	block := func(typ string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}))
	}
	return block("CERTIFICATE", der), block("EC PRIVATE KEY", kder)
}

func TestCertificates(t *testing.T) {
	cert, key := selfSigned(t)
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"a/hosts.toml": "[host.\"https://m\"]\nca = \"ca.pem\"\nclient = [[\"c.pem\", \"k.pem\"]]", "a/ca.pem": cert, "a/c.pem": cert, "a/k.pem": key,
		"b/hosts.toml": fmt.Sprintf("ca = [%q]\nclient = %q", filepath.Join(dir, "a/ca.pem"), "both.pem"), "b/both.pem": cert + key,
		"c/x.crt": cert, "c/y.cert": cert, "c/y.key": key,
	})
	for registry, at := range map[string]int{"a": 0, "b": 0, "c": 0} {
		hosts, err := Load([]string{dir}, registry, Default{})
		if err != nil {
			t.Fatal(err)
		}
		c, err := hosts[at].TLS.Config()
		if err != nil || c.RootCAs == nil || len(c.Certificates) != 1 {
			t.Errorf("registry %s: %+v, %v", registry, c, err)
		}
		if hosts[at].TLS.Key() == (TLS{}).Key() {
			t.Errorf("registry %s: same key as the default's", registry)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sample)
	f.Add("ca=[\"a\"]\nclient=[[\"a\",\"b\"]]\n[host.\"x\"]\n")
	f.Add("[host]\n\"https://b\" = {}\n")
	f.Fuzz(func(t *testing.T, text string) {
		hosts, err := parse([]byte(text), "r.example", Default{})
		if err != nil {
			return
		}
		if len(hosts) == 0 || len(hosts) > maxHosts+1 {
			t.Fatalf("%d hosts", len(hosts))
		}
		for _, h := range hosts {
			if h.URL.Hostname() == "" || h.URL.Scheme != "http" && h.URL.Scheme != "https" || h.Capabilities == 0 {
				t.Fatalf("%+v", h)
			}
		}
	})
}
