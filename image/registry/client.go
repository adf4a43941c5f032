// Package registry speaks the OCI distribution protocol (distribution-spec 1.1) to registries and their mirrors.
//
// It owns connections, authentication, retries, falling over between mirrors, and the reading of big blobs in parallel
// ranges. It writes nothing to disk and knows nothing of what an image consists of; it imports content for its types only.
//
// What a crash leaves: nothing here; in a registry an upload that was begun, which registries drop by themselves.
package registry

import (
	"context"
	"net/http"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// Credential authenticates with one registry. The zero value is anonymous.
type Credential = auth.Credential

// CredentialFunc answers the credential for host, which is "host[:port]" of the registry or mirror that asks.
type CredentialFunc func(ctx context.Context, host string) (Credential, error)

// Config of a Client. The zero value works.
type Config struct {
	// HostsDirs are looked through in order for <dir>/<host>/hosts.toml (see package hosts).
	HostsDirs []string
	// Credentials is used where Options has none; nil for DockerCredentials("").
	Credentials CredentialFunc
	UserAgent   string
	// Streams is how many ranges of one big blob are fetched at a time: 0 for 3 (1 from loopback, where it gains nothing).
	Streams int
	// RetryRounds is how often all hosts are tried again after failures that may pass; 0 for 5, -1 for never.
	RetryRounds int
	// MaxRetryAfter caps what a registry may make us wait; 0 for a minute.
	MaxRetryAfter time.Duration
	// StallTimeout ends a connection that delivers nothing for so long; 0 for a minute.
	StallTimeout time.Duration
}

// Options of one operation.
type Options struct {
	Credentials CredentialFunc
	Header      http.Header // sent with every request
	PlainHTTP   bool        // http even when the host is not loopback; ignored for hosts that hosts.toml describes
	SkipVerify  bool        // accept any certificate; likewise
	HostsDirs   []string    // instead of Config.HostsDirs
}

// Client holds the connections of a process to registries. It is safe for concurrent use.
type Client struct {
	config Config
}

// New makes a client. It reaches out to nobody.
func New(c Config) *Client {
	return &Client{config: c}
}

// Close drops idle connections.
func (c *Client) Close() error { return nil }
