// Package hosts reads which hosts serve a registry: containerd's hosts.toml directories, and docker's certificate
// directories where there is no hosts.toml.
//
// It owns the layout <dir>/<host[:port]>/hosts.toml and <dir>/_default/hosts.toml, and the choice between http and https. It
// opens no connection, imports nothing of Slipway, and keeps no state: files are read anew each time, so that a change takes
// effect with the next pull.
package hosts

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// maxFile bounds each file that is read, in bytes.
const maxFile = 1 << 20

// Capability is what a host may be asked for.
type Capability uint8

const (
	Pull    Capability = 1 << iota // manifests and blobs by digest
	Resolve                        // tags
	Push
	All = Pull | Resolve | Push
)

// Host is one server that serves a registry.
type Host struct {
	URL          *url.URL // with the path that the API begins at, such as https://mirror.example/v2
	Capabilities Capability
	Header       http.Header
	TLS          TLS
	DialTimeout  time.Duration // 0 for the default
}

// Has reports whether the host has all of c.
func (h Host) Has(c Capability) bool { return h.Capabilities&c == c }

// Default says how to reach a host that no file describes.
type Default struct {
	PlainHTTP  bool
	SkipVerify bool
}

// Load answers the hosts of registry in the order to try them: mirrors first, then the registry itself. The first of dirs
// that describes the registry, by name or by _default, counts.
func Load(dirs []string, registry string, d Default) ([]Host, error) {
	if registry == "" || registry == "." || registry == ".." || strings.ContainsAny(registry, "/\\\x00") {
		return nil, fmt.Errorf("registry %.100q is not a host: %w", registry, errdefs.ErrInvalidArgument)
	}
	for _, dir := range dirs {
		if dir == "" { // not the working directory
			continue
		}
		for _, sub := range directories(registry) {
			hosts, err := loadDir(filepath.Join(dir, sub), registry, d)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("cannot read the hosts of %s: %w", registry, err)
			}
			return hosts, nil
		}
	}
	h, err := upstream(registry, d)
	return []Host{h}, err
}

// directories are the names a registry's directory may have: host_port_ is for file systems without colons.
func directories(registry string) []string {
	var names []string
	if host, port, err := net.SplitHostPort(registry); err == nil {
		names = append(names, strings.NewReplacer("[", "", "]", "", ":", "_").Replace(host)+"_"+port+"_")
	}
	return append(names, registry, "_default")
}

func loadDir(dir, registry string, d Default) ([]Host, error) {
	data, err := readFile(os.Open(filepath.Join(dir, "hosts.toml")))
	if errors.Is(err, fs.ErrNotExist) {
		return loadCerts(dir, registry, d)
	}
	if err != nil {
		return nil, err
	}
	hosts, err := parse(data, registry, d)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, "hosts.toml"), err)
	}
	for i := range hosts {
		if err := hosts[i].TLS.load(dir); err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, "hosts.toml"), err)
		}
	}
	return hosts, nil
}

func readFile(f *os.File, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes: %w", f.Name(), maxFile, errdefs.ErrOutOfRange)
	}
	return data, err
}

// upstream is the registry itself.
func upstream(registry string, d Default) (Host, error) {
	host := registry
	if host == "docker.io" {
		host = "registry-1.docker.io"
	}
	scheme := "https"
	if d.PlainHTTP || IsLoopback(host) {
		scheme = "http"
	}
	u, err := parseURL(scheme+"://"+host, false)
	return Host{URL: u, Capabilities: All, TLS: TLS{SkipVerify: d.SkipVerify}}, err
}

// parseURL reads a host's address: a URL, or a host alone, which is https unless it is loopback. The path of the API is
// appended unless override says that the path is complete.
func parseURL(s string, override bool) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		scheme := "https://"
		if h, _, _ := strings.Cut(s, "/"); IsLoopback(h) {
			scheme = "http://"
		}
		s = scheme + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("host %.200q must be http(s)://host[:port][/path]: %w", s, errdefs.ErrInvalidArgument)
	}
	u.RawPath = ""
	if override {
		u.Path = strings.TrimRight(u.Path, "/")
	} else if p := path.Clean("/" + u.Path); path.Base(p) == "v2" {
		u.Path = p
	} else {
		u.Path = path.Join(p, "v2")
	}
	return u, nil
}

// IsLoopback reports whether hostport ("host[:port]") is this machine by its name alone.
func IsLoopback(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}
