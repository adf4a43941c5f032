package lazyindex

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

func TestKeys(t *testing.T) {
	private := []byte("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n")
	k, err := ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParsePublicKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	if err != nil || !bytes.Equal(got, k.Public().(ed25519.PublicKey)) {
		t.Errorf("public key %x, %v", got, err)
	}
	if _, err := ParsePublicKey(private); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a private key as a public one: %v", err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if der, err = x509.MarshalPKIXPublicKey(other.Public()); err != nil {
		t.Fatal(err)
	}
	if _, err := ParsePublicKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})); !errdefs.IsNotImplemented(err) {
		t.Errorf("an ECDSA key: %v", err)
	}
	for _, bad := range []string{"", "x", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"} {
		if _, err := ParsePublicKey([]byte(bad)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
		if _, err := ParsePrivateKey([]byte(bad)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestOpenSSL has others' tools make the keys and check a signature: the format is not ours alone.
func TestOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("no openssl here")
	}
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command("openssl", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
	}
	file := func(name string) []byte {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	run("genpkey", "-algorithm", "ed25519", "-out", "key.pem")
	run("pkey", "-in", "key.pem", "-pubout", "-out", "pub.pem")
	k, err := ParsePrivateKey(file("key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ParsePublicKey(file("pub.pem"))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := seal([]byte("payload"), k)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := (Trust{Keys: []ed25519.PublicKey{pub}}).open(sealed); err != nil || string(got) != "payload" {
		t.Errorf("opens %q, %v", got, err)
	}
	message := []byte("DSSEv1 37 application/vnd.slipway.index.v1+json 7 payload")
	for name, data := range map[string][]byte{"message": message, "sig": ed25519.Sign(k, signed(ArtifactType, []byte("payload")))} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run("pkeyutl", "-verify", "-pubin", "-inkey", "pub.pem", "-rawin", "-in", "message", "-sigfile", "sig")
}
