package lazyindex

import (
	"crypto/ed25519"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// FuzzArtifact reads anything as an artifact's manifest and, from there, as its statement. What passes is within bounds.
func FuzzArtifact(f *testing.F) {
	subject := digest.FromString("image")
	sealed := func(payload string, k ed25519.PrivateKey) []byte {
		data, err := seal([]byte(payload), k)
		if err != nil {
			f.Fatal(err)
		}
		return data
	}
	layer := `{"layer":"` + digest.FromString("l").String() + `","index":{"digest":"` + digest.FromString("x").String() + `","size":100}}`
	for _, envelope := range [][]byte{sealed(`{"subject":"`+subject.String()+`","layers":[`+layer+`]}`, key(1)), sealed(`{"layers":[`+layer+`,`+layer+`]}`, nil), []byte("{}")} {
		config := describe(ArtifactType, envelope)
		config.Data = envelope
		m := ocispec.Manifest{Config: config, Subject: &ocispec.Descriptor{Digest: subject}}
		data, err := json.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for kind := range map[string]bool{sociV1: true, sociV2: true} {
		f.Add([]byte(`{"config":{"mediaType":"` + kind + `"},"subject":{"digest":"` + subject.String() + `"},"layers":[{"annotations":{"` + sociLayerAnnotation + `":"` + subject.String() + `"}}]}`))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, kind := range []string{sociV1, sociV2} {
			if ztocs, err := parseSOCI(data, kind, subject); err == nil && len(ztocs) > maxLayers+maxProfiles {
				t.Errorf("%d zTOCs", len(ztocs))
			}
		}
		m, err := parseManifest(data, ArtifactType, subject)
		if err != nil {
			return
		}
		signed, err := Trust{Keys: []ed25519.PublicKey{public(1)}}.open(m.inline())
		if err == nil && string(signed) != `{"subject":"`+subject.String()+`","layers":[`+layer+`]}` {
			t.Fatalf("believes %q", signed)
		}
		payload, err := Trust{Registry: true}.open(m.inline())
		if err != nil {
			return
		}
		s, err := parseStatement(payload, subject)
		if err != nil {
			return
		}
		for layer, b := range s.layers {
			if layer.Validate() != nil || b.Digest.Validate() != nil || b.Size <= 0 || b.Size > maxDocument {
				t.Errorf("layer %q has index %+v", layer, b)
			}
		}
	})
}

// FuzzGet has any bytes where an index was kept.
func FuzzGet(f *testing.F) {
	_, doc, _ := aLayer(f, 1, 1000)
	f.Add(doc)
	f.Add([]byte(refusal + "sparse"))
	f.Add([]byte{})
	dir := f.TempDir()
	s, err := Open(dir, 0, quiet)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, "sha256", name(1).Encoded()), data, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := s.Get(name(1))
		if err == nil && string(got) != string(data) {
			t.Error("answers something else than is there")
		}
	})
}

func FuzzKeys(f *testing.F) {
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n"))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if k, err := ParsePublicKey(data); err == nil && len(k) != ed25519.PublicKeySize {
			t.Errorf("public key of %d bytes", len(k))
		}
		if k, err := ParsePrivateKey(data); err == nil && len(k) != ed25519.PrivateKeySize {
			t.Errorf("private key of %d bytes", len(k))
		}
	})
}
