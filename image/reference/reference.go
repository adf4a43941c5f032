// Package reference parses image names as docker users type them and writes them in full.
//
// It owns the grammar of github.com/distribution/reference and docker's defaults: no registry means docker.io, one path
// component there means library/, no tag and no digest means latest. It imports nothing of Slipway and keeps no state.
package reference

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

const (
	// DockerHub is the registry of names that give none.
	DockerHub = "docker.io"
	// maxName bounds registry and repository together, in bytes; maxTag a tag.
	maxName = 255
	maxTag  = 128
)

// Ref is a name in full. At least one of Tag and Digest is set.
type Ref struct {
	Host       string // registry, with port if the name has one
	Repository string
	Tag        string
	Digest     digest.Digest
}

// Parse reads s. InvalidArgument when it is not a name.
func Parse(s string) (Ref, error) {
	r, err := parse(s)
	if err != nil {
		return Ref{}, fmt.Errorf("image name %.300q: %w: %w", s, err, errdefs.ErrInvalidArgument)
	}
	return r, nil
}

func parse(s string) (Ref, error) {
	var r Ref
	if len(s) > maxName+maxTag+150 {
		return r, fmt.Errorf("it is %d bytes long", len(s))
	}
	name, dgst, pinned := strings.Cut(s, "@")
	if pinned {
		r.Digest = digest.Digest(dgst)
		if err := r.Digest.Validate(); err != nil {
			return r, fmt.Errorf("digest %q: %w", dgst, err)
		}
	}
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name, r.Tag = name[:i], name[i+1:]
		if !isTag(r.Tag) {
			return r, fmt.Errorf("tag %q must be 1 to %d of letters, digits, _ . - and not begin with . or -", r.Tag, maxTag)
		}
	}
	if isID(name) {
		return r, fmt.Errorf("64 hexadecimal digits are an ID and cannot be a name")
	}
	r.Host, r.Repository = split(name)
	if r.Tag == "" && !pinned {
		r.Tag = "latest"
	}
	return r, r.check()
}

// split tells registry from repository: what is before the first slash is a registry when it could not be a user's name on
// Docker Hub.
func split(name string) (host, repository string) {
	host, repository, found := strings.Cut(name, "/")
	if !found || !strings.ContainsAny(host, ".:") && host != "localhost" && strings.ToLower(host) == host {
		host, repository = DockerHub, name
	}
	if host == "index.docker.io" {
		host = DockerHub
	}
	if host == DockerHub && !strings.Contains(repository, "/") {
		repository = "library/" + repository
	}
	return host, repository
}

func (r Ref) check() error {
	if !isHost(r.Host) {
		return fmt.Errorf("registry %q is not a host name", r.Host)
	}
	if len(r.Host)+len(r.Repository) > maxName {
		return fmt.Errorf("registry and repository are longer than %d bytes", maxName)
	}
	for component := range strings.SplitSeq(r.Repository, "/") {
		if !isComponent(component) {
			if strings.ToLower(r.Repository) != r.Repository {
				return fmt.Errorf("repository %q must be lower case", r.Repository)
			}
			return fmt.Errorf("repository component %q must be lower-case letters and digits with single . _ or __ or dashes between them", component)
		}
	}
	return nil
}

// String is the name in full: what an image is recorded under.
func (r Ref) String() string {
	s := r.Name()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// Name is registry and repository.
func (r Ref) Name() string { return r.Host + "/" + r.Repository }

// Familiar is the name with docker's defaults left out: what a user likes to read.
func (r Ref) Familiar() string {
	s := r.String()
	if r.Host == DockerHub {
		s = strings.TrimPrefix(s, DockerHub+"/")
		if rest := strings.TrimPrefix(s, "library/"); !strings.Contains(rest, "/") {
			s = rest
		}
	}
	if r.Tag == "latest" && r.Digest == "" {
		s = strings.TrimSuffix(s, ":latest")
	}
	return s
}

// Object is what a registry is asked for: the digest where there is one, else the tag.
func (r Ref) Object() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

func isID(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

func isTag(s string) bool {
	if s == "" || len(s) > maxTag || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && !('A' <= c && c <= 'Z') && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// isComponent is [a-z0-9]+ with separators ".", "_", "__" or "-"+ between.
func isComponent(s string) bool {
	if s == "" || !isAlnum(s[0]) || !isAlnum(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); {
		if isAlnum(s[i]) {
			i++
			continue
		}
		start := i
		for !isAlnum(s[i]) { // ends, for the last byte is alnum
			i++
		}
		if sep := s[start:i]; sep != "." && sep != "_" && sep != "__" && strings.Trim(sep, "-") != "" {
			return false
		}
	}
	return true
}

func isAlnum(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// isHost is a DNS name, IPv4 address or bracketed IPv6 address, with an optional port.
func isHost(s string) bool {
	name, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		name, port = s[:i], s[i+1:]
		if port == "" || len(port) > 5 || strings.Trim(port, "0123456789") != "" {
			return false
		}
	}
	if v6, ok := strings.CutPrefix(name, "["); ok {
		v6, ok = strings.CutSuffix(v6, "]")
		addr, err := netip.ParseAddr(v6)
		return ok && err == nil && addr.Is6() && addr.Zone() == ""
	}
	for label := range strings.SplitSeq(name, ".") {
		if !isLabel(label) {
			return false
		}
	}
	return true
}

func isLabel(s string) bool {
	if s == "" || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c != '-' && !isAlnum(c) && !('A' <= c && c <= 'Z') {
			return false
		}
	}
	return true
}
