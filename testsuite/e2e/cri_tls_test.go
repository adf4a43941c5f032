package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// selfSigned writes a certificate for 127.0.0.1 with its key, in the place of those that are there.
func selfSigned(t *testing.T, cert, key string) *x509.Certificate {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "streams"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// TestStreamsOverTLS: with a certificate streams are encrypted, clients can check whose they are, and a renewed certificate is used at once.
func TestStreamsOverTLS(t *testing.T) {
	var cert, key string
	var first *x509.Certificate
	d, k := startCRIWith(t, func(d *daemon) {
		cert, key = filepath.Join(d.dir, "cert.pem"), filepath.Join(d.dir, "key.pem")
		first = selfSigned(t, cert, key)
		d.config += fmt.Sprintf("stream_tls_cert = %q\nstream_tls_key = %q\n", cert, key)
	})
	k.pull(t)
	pod := k.podConfig(name(t))
	_, id := k.start(t, pod, k.containerConfig(pod, "exec sleep 1000"))
	try := func(trusted *x509.Certificate) {
		t.Helper()
		url := k.exec(t, &runtime.ExecRequest{ContainerId: id, Cmd: []string{"sh", "-c", "echo secret; exit 6"}, Stdout: true})
		if !strings.HasPrefix(url, "https://127.0.0.1:") {
			t.Fatalf("streams are at %s", url)
		}
		roots := x509.NewCertPool()
		roots.AddCert(trusted)
		if out, _, code := dialStreamsTLS(t, &tls.Config{RootCAs: roots}, url, "stdout").result(); out != "secret\n" || code != 6 {
			t.Errorf("got %q, exit code %d", out, code)
		}
	}
	try(first)
	try(selfSigned(t, cert, key))
	k.removeAll(t, d)
}
