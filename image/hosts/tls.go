package hosts

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// TLS is what a host needs besides the system's certificates. The zero value is the system's.
type TLS struct {
	SkipVerify bool

	caFiles     []string
	clientFiles [][2]string // certificate, key
	ca          [][]byte    // PEM
	client      [][2][]byte // PEM
}

// load reads the files; paths that are not absolute are below dir.
func (t *TLS) load(dir string) error {
	read := func(name string) ([]byte, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return readFile(os.Open(name))
	}
	for _, name := range t.caFiles {
		pem, err := read(name)
		if err != nil {
			return fmt.Errorf("cannot read certificate authority: %w", hide(err))
		}
		t.ca = append(t.ca, pem)
	}
	for _, pair := range t.clientFiles {
		cert, err := read(pair[0])
		if err != nil {
			return fmt.Errorf("cannot read client certificate: %w", hide(err))
		}
		key, err := read(pair[1])
		if err != nil {
			return fmt.Errorf("cannot read client key: %w", hide(err))
		}
		t.client = append(t.client, [2][]byte{cert, key})
	}
	_, err := t.Config()
	return err
}

// hide keeps a missing certificate from being taken for a missing hosts.toml.
func hide(err error) error { return fmt.Errorf("%v: %w", err, errdefs.ErrFailedPrecondition) }

// Config makes a client's configuration.
func (t TLS) Config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: t.SkipVerify}
	if len(t.ca) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		for i, pem := range t.ca {
			if !pool.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("certificate authority %s has no PEM certificate: %w", t.caFiles[i], errdefs.ErrInvalidArgument)
			}
		}
		c.RootCAs = pool
	}
	for i, pair := range t.client {
		cert, err := tls.X509KeyPair(pair[0], pair[1])
		if err != nil {
			return nil, fmt.Errorf("client certificate %s: %w: %w", t.clientFiles[i][0], err, errdefs.ErrInvalidArgument)
		}
		c.Certificates = append(c.Certificates, cert)
	}
	return c, nil
}

// Key is equal for equal settings, so that connections can be shared.
func (t TLS) Key() string {
	h := sha256.New()
	fmt.Fprintln(h, t.SkipVerify, len(t.ca), len(t.client))
	for _, pem := range t.ca {
		fmt.Fprintf(h, "%d %s", len(pem), pem)
	}
	for _, pair := range t.client {
		fmt.Fprintf(h, "%d %s %d %s", len(pair[0]), pair[0], len(pair[1]), pair[1])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// loadCerts reads a directory in docker's layout: *.crt are authorities, *.cert with *.key client certificates
// (docs.docker.com/engine/security/certificates). ErrNotExist when it holds none of them.
func loadCerts(dir, registry string, d Default) ([]Host, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	h, err := upstream(registry, d)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name := e.Name()
		switch filepath.Ext(name) {
		case ".crt":
			h.TLS.caFiles = append(h.TLS.caFiles, name)
		case ".cert":
			h.TLS.clientFiles = append(h.TLS.clientFiles, [2]string{name, strings.TrimSuffix(name, ".cert") + ".key"})
		}
	}
	if len(h.TLS.caFiles)+len(h.TLS.clientFiles) == 0 {
		return nil, fs.ErrNotExist
	}
	return []Host{h}, h.TLS.load(dir)
}
