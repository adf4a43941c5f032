package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image/hosts"
)

// maxURLs is how many places of a foreign layer are tried.
const maxURLs = 8

// isForeign tells whether a blob may be fetched from the URLs in its descriptor, which is so for layers that may not be distributed
// (image-spec descriptor.md, "urls", and layer.md, "Non-Distributable Layers"; Docker's rootfs.foreign).
func isForeign(d ocispec.Descriptor) bool {
	return len(d.URLs) > 0 && (strings.Contains(d.MediaType, ".rootfs.foreign.diff.tar") || strings.Contains(d.MediaType, ".layer.nondistributable."))
}

// elsewhere is the client for URLs that images of a registry name. Whoever made the image chose them, so they get neither credentials nor
// headers of the registry, and no other scheme than https; this host's own services are only asked when the registry is one of them.
func (c *Client) elsewhere(registry string) (*http.Client, error) {
	transport, err := c.transport(hosts.Host{})
	if err != nil {
		return nil, err
	}
	if !hosts.IsLoopback(registry) && !proxied() {
		transport = transport.Clone() // whose connections none of ours uses
		transport.DialContext = (&net.Dialer{Timeout: transport.TLSHandshakeTimeout, KeepAlive: 30 * time.Second, Control: notHere}).DialContext
	}
	return &http.Client{Transport: transport, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) >= 10 {
			return errors.New("it redirects without end")
		}
		return checkURL(req.URL, hosts.IsLoopback(registry))
	}}, nil
}

// proxied says whether another host connects for us; it sees other addresses than we would.
func proxied() bool {
	u, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: "layers.invalid"}})
	return err == nil && u != nil
}

// notHere refuses connections to this host and its link, where clouds tell machines their secrets, whatever name led there.
func notHere(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if ip := at.Addr().Unmap(); ip.IsLoopback() || ip.IsUnspecified() || ip.IsLinkLocalUnicast() {
		return fmt.Errorf("an image may not have %s asked, which is this host or its link: %w", ip, errdefs.ErrPermissionDenied)
	}
	return nil
}

func checkURL(u *url.URL, local bool) error {
	if hosts.IsLoopback(u.Host) && local && u.Scheme == "http" {
		return nil
	}
	if u.Host == "" || u.User != nil || u.Scheme != "https" || hosts.IsLoopback(u.Host) {
		return fmt.Errorf("it is not an https URL of another host, without credentials: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// connectForeign opens a body at the first of the descriptor's URLs that has it. missing is what the registry and its mirrors said.
func (s *stream) connectForeign(missing error) error {
	errs := []error{missing}
	for _, raw := range s.desc.URLs[:min(len(s.desc.URLs), maxURLs)] {
		u, err := url.Parse(raw)
		if err == nil {
			err = checkURL(u, hosts.IsLoopback(s.remote.ref.Host))
		}
		if err == nil {
			err = s.get(func(ctx context.Context) (*http.Request, error) {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
				if err == nil {
					req.Header.Set("User-Agent", s.remote.config.UserAgent)
				}
				return req, err
			}, s.remote.getElsewhere)
		}
		if err == nil {
			return nil
		}
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		errs = append(errs, fmt.Errorf("%.200q: %w", raw, err))
	}
	return summary(errs)
}

func (r *Remote) getElsewhere(req *http.Request, want ...int) (*http.Response, error) {
	return expect(r.elsewhere, req, want)
}
