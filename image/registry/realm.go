package registry

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync"
)

// realms lets a registry inside of a network name a token server there on another host, as GitLab's does. oras-go refuses
// such an address whoever names it, lest a registry on the internet make us send requests to inside. What counts here is
// where the answer that names the server came from: whoever is inside may name who is inside. For oras-go the server then
// looks like a path of the registry.
type realms struct {
	http.RoundTripper
	host  string // of the registry; others name nothing
	proxy func(*http.Request) (*url.URL, error)

	mu    sync.Mutex
	known map[string]*url.URL // servers by the path that stands for them
}

const (
	realmPath = "/.slipway-token-server/"
	maxRealms = 16 // a registry has one
)

var realmParam = regexp.MustCompile(`(?i)\brealm="([^"]*)"`)

func (r *realms) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host == r.host && strings.HasPrefix(req.URL.Path, realmPath) {
		return r.send(req)
	}
	var from netip.Addr
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if a, err := netip.ParseAddrPort(i.Conn.RemoteAddr().String()); err == nil {
			from = a.Addr()
		}
	}}
	resp, err := r.RoundTripper.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	if err != nil || resp.StatusCode != http.StatusUnauthorized || req.URL.Host != r.host {
		return resp, err
	}
	if via, err := r.proxy(req); err != nil || via != nil { // then from is the proxy's
		return resp, nil
	}
	for i, challenge := range resp.Header["Www-Authenticate"] {
		resp.Header["Www-Authenticate"][i] = r.disguise(req, from, challenge)
	}
	return resp, nil
}

// send makes a request to the server that a path stands for.
func (r *realms) send(req *http.Request) (*http.Response, error) {
	r.mu.Lock()
	to := r.known[req.URL.Path]
	r.mu.Unlock()
	if to == nil {
		return nil, fmt.Errorf("nobody has named the token server %s", req.URL.Path)
	}
	out := req.Clone(req.Context())
	out.URL.Scheme, out.URL.Host, out.URL.Path, out.URL.RawPath, out.Host = to.Scheme, to.Host, to.Path, to.RawPath, ""
	return r.RoundTripper.RoundTrip(out)
}

// disguise replaces the token server in a challenge if it is inside like the registry.
func (r *realms) disguise(req *http.Request, from netip.Addr, challenge string) string {
	at := realmParam.FindStringSubmatchIndex(challenge)
	if at == nil {
		return challenge
	}
	to, err := url.Parse(challenge[at[2]:at[3]])
	if err != nil || to.User != nil || to.Scheme != "https" && (to.Scheme != "http" || req.URL.Scheme == "https") ||
		strings.EqualFold(to.Hostname(), req.URL.Hostname()) || !inside(req.Context(), from, to.Hostname()) {
		return challenge // for oras-go to judge
	}
	path := fmt.Sprintf("%s%x", realmPath, sha256.Sum256([]byte(to.Scheme+"://"+to.Host+to.EscapedPath())))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known[path] == nil {
		if len(r.known) >= maxRealms {
			return challenge
		}
		if r.known == nil {
			r.known = map[string]*url.URL{}
		}
		r.known[path] = to
	}
	stand := url.URL{Scheme: req.URL.Scheme, Host: req.URL.Host, Path: path, RawQuery: to.RawQuery}
	return challenge[:at[2]] + stand.String() + challenge[at[3]:]
}

// inside reports whether all addresses of host may be named by who is at from.
func inside(ctx context.Context, from netip.Addr, host string) bool {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return false
	}
	for _, to := range addrs {
		if !mayName(from, to) {
			return false
		}
	}
	return len(addrs) > 0
}

// mayName: a private address may name private ones, and this machine its own ones too. Addresses of one link, such as the
// metadata services of clouds have, may be named by nobody.
func mayName(from, to netip.Addr) bool {
	from, to = from.Unmap(), to.Unmap()
	switch {
	case from.IsLoopback():
		return to.IsLoopback() || to.IsPrivate()
	case from.IsPrivate():
		return to.IsPrivate()
	}
	return false
}
