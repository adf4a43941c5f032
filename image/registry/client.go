// Package registry speaks the OCI distribution protocol (distribution-spec 1.1) to registries and their mirrors.
//
// It owns connections, authentication, retries, falling over between mirrors, and the reading of big blobs in parallel
// ranges. It writes nothing to disk and knows nothing of what an image consists of. Of Slipway it imports the packages hosts
// and reference beside it.
//
// What a crash leaves: nothing here; in a registry an upload that was begun, which registries drop by themselves.
package registry

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/slipwayd/slipway/image/hosts"
	"github.com/slipwayd/slipway/image/reference"
)

// Credential authenticates with one registry. The zero value is anonymous.
type Credential = auth.Credential

// CredentialFunc answers the credential for host, which is "host[:port]" of the registry or mirror that asks.
type CredentialFunc func(ctx context.Context, host string) (Credential, error)

// Config of a Client. The zero value works.
type Config struct {
	// HostsDirs are looked through in order for <dir>/<host>/hosts.toml (see package hosts).
	HostsDirs []string
	// Credentials is used where Options has none; nil for anonymous.
	Credentials CredentialFunc
	UserAgent   string
	// Streams is how many ranges of one big blob are fetched at a time: 0 for 3 (1 from loopback, where it gains nothing).
	Streams int
	// ChunkSize is the length of those ranges in bytes, 0 for 4 MiB. A blob of fewer than four chunks is one stream.
	ChunkSize int64
	// Retries is how often all hosts are tried again after failures that may pass; 0 for 5, -1 for never.
	Retries int
	// Backoff is the first pause between such rounds, doubled for each up to 25 times as much; 0 for 200 ms.
	Backoff time.Duration
	// MaxRetryAfter caps what a registry may make us wait; 0 for a minute.
	MaxRetryAfter time.Duration
	// StallTimeout ends a connection that delivers nothing for so long; 0 for a minute.
	StallTimeout time.Duration
}

// Options of one operation.
type Options struct {
	Credentials CredentialFunc
	Header      http.Header // sent with every request to a registry or mirror
	PlainHTTP   bool        // http even when the host is not loopback; ignored for hosts that hosts.toml describes
	SkipVerify  bool        // accept any certificate; likewise
	HostsDirs   []string    // instead of Config.HostsDirs
	NeedRanges  bool        // refuse a host that answers a range with all of the blob, instead of throwing away the rest
}

// Client holds the connections of a process to registries. It is safe for concurrent use.
type Client struct {
	config Config

	mu         sync.Mutex
	transports map[string]*http.Transport // by TLS key and dial time-out

	noReferrers sync.Map // hosts that have no referrers API
}

// New makes a client. It reaches out to nobody.
func New(c Config) *Client {
	if c.UserAgent == "" {
		c.UserAgent = "slipway"
	}
	if c.ChunkSize <= 0 {
		c.ChunkSize = 4 << 20
	}
	if c.Retries == 0 {
		c.Retries = 5
	}
	if c.Backoff <= 0 {
		c.Backoff = 200 * time.Millisecond
	}
	if c.MaxRetryAfter <= 0 {
		c.MaxRetryAfter = time.Minute
	}
	if c.StallTimeout <= 0 {
		c.StallTimeout = time.Minute
	}
	return &Client{config: c, transports: map[string]*http.Transport{}}
}

// HostsDirs are those of the client's Config.
func (c *Client) HostsDirs() []string { return c.config.HostsDirs }

// Close drops idle connections; those in use end with their requests.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.transports {
		t.CloseIdleConnections()
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// DockerCredentials reads docker's config.json at path (empty for $DOCKER_CONFIG or ~/.docker) for every question anew, and
// asks the credential helpers it names.
func DockerCredentials(path string) CredentialFunc {
	return func(ctx context.Context, host string) (Credential, error) {
		var store *credentials.DynamicStore
		var err error
		if path == "" {
			store, err = credentials.NewStoreFromDocker(credentials.StoreOptions{})
		} else {
			store, err = credentials.NewStore(path, credentials.StoreOptions{})
		}
		if err != nil {
			return Credential{}, fmt.Errorf("cannot read docker's config.json: %w: %w", err, errdefs.ErrFailedPrecondition)
		}
		cred, err := credentials.Credential(store)(ctx, host)
		if err != nil {
			return Credential{}, fmt.Errorf("cannot get the credential for %s (see credHelpers and credsStore in docker's config.json): %w", host, err)
		}
		return cred, nil
	}
}

// Remote is one repository with the hosts that serve it. It is safe for concurrent use, keeps tokens for as long as it lives
// and needs no closing.
type Remote struct {
	config    Config
	ref       reference.Ref
	ranges    bool // Options.NeedRanges
	endpoints []*endpoint

	noReferrers *sync.Map    // the Client's
	trust       *trust       // nil for one host
	elsewhere   *http.Client // for foreign layers; it knows no credentials
}

// endpoint is one host of a Remote.
type endpoint struct {
	hosts.Host
	http *auth.Client
	repo string // path below the host's, with a leading slash
	ns   string // the registry it mirrors, empty for the registry itself
}

// Remote finds the hosts of ref. InvalidArgument or FailedPrecondition when hosts.toml is wrong.
func (c *Client) Remote(ref reference.Ref, o Options) (*Remote, error) {
	dirs := c.config.HostsDirs
	if o.HostsDirs != nil {
		dirs = o.HostsDirs
	}
	list, err := hosts.Load(dirs, ref.Host, hosts.Default{PlainHTTP: o.PlainHTTP, SkipVerify: o.SkipVerify})
	if err != nil {
		return nil, err
	}
	creds := o.Credentials
	if creds == nil {
		creds = c.config.Credentials
	}
	r := &Remote{config: c.config, ref: ref, ranges: o.NeedRanges, noReferrers: &c.noReferrers}
	if r.elsewhere, err = c.elsewhere(ref.Host); err != nil {
		return nil, err
	}
	cache := auth.NewCache()
	for _, h := range list {
		transport, err := c.transport(h)
		if err != nil {
			return nil, err
		}
		header := http.Header{"User-Agent": {c.config.UserAgent}}
		for _, more := range []http.Header{h.Header, o.Header} {
			for k, v := range more {
				header[http.CanonicalHeaderKey(k)] = v
			}
		}
		e := &endpoint{Host: h, repo: "/" + ref.Repository, http: &auth.Client{
			Client: &http.Client{Transport: &realms{RoundTripper: transport, host: h.URL.Host, proxy: transport.Proxy}}, Header: header, Cache: cache, ClientID: "slipway", Credential: auth.CredentialFunc(creds)}}
		if h.URL.Host != ref.Host && !(ref.Host == reference.DockerHub && h.URL.Host == "registry-1.docker.io") {
			e.ns = ref.Host
		}
		r.endpoints = append(r.endpoints, e)
	}
	if len(r.endpoints) > 1 {
		r.trust = &trust{}
	}
	return r, nil
}

// WithRanges is the same remote as with Options.NeedRanges; the two share connections and tokens.
func (r *Remote) WithRanges() *Remote {
	other := *r
	other.ranges = true
	return &other
}

// Ref is the name the remote was made for.
func (r *Remote) Ref() reference.Ref { return r.ref }

// transport is shared by all hosts with the same TLS settings.
func (c *Client) transport(h hosts.Host) (*http.Transport, error) {
	key := fmt.Sprint(h.TLS.Key(), h.DialTimeout)
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.transports[key]; ok {
		return t, nil
	}
	tlsConfig, err := h.TLS.Config()
	if err != nil {
		return nil, err
	}
	timeout := h.DialTimeout
	if timeout == 0 {
		timeout = 30 * time.Second
	}
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: timeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        tlsConfig,
		TLSHandshakeTimeout:    timeout,
		ResponseHeaderTimeout:  c.config.StallTimeout,
		MaxResponseHeaderBytes: 256 << 10,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        30 * time.Second,
		DisableCompression:     true, // a blob's digest is of the bytes as they are stored
		ForceAttemptHTTP2:      true,
	}
	c.transports[key] = t
	return t, nil
}
