package lazyindex

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
)

// Trust says whose indexes are believed besides this host's own and those that an image's own manifest names. An index says what
// the files of a layer are; nothing but the whole layer can contradict it.
type Trust struct {
	Keys []ed25519.PublicKey // whoever has one of these may say what a layer holds
	// Registry believes whatever the registry lists, as SOCI's snapshotter does: whoever may push to the repository then decides.
	Registry bool
}

func (t Trust) asks() bool { return t.Registry || len(t.Keys) > 0 }

// The envelope of a statement is DSSE's (github.com/secure-systems-lab/dsse, version 1.0.2), with the payload type of our
// artifact and Ed25519 signatures.
type envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     []byte      `json:"payload"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	KeyID string `json:"keyid"`
	Sig   []byte `json:"sig"`
}

const maxSignatures = 16

// keyID names a public key: the SHA-256 of its PKIX form.
func keyID(key ed25519.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("cannot encode the public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// signed is what a signature is over: DSSE's pre-authentication encoding.
func signed(payloadType string, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
}

// seal puts a payload into an envelope, signed when there is a key.
func seal(payload []byte, key ed25519.PrivateKey) ([]byte, error) {
	e := envelope{PayloadType: ArtifactType, Payload: payload, Signatures: []signature{}}
	if key != nil {
		id, err := keyID(key.Public().(ed25519.PublicKey))
		if err != nil {
			return nil, err
		}
		e.Signatures = append(e.Signatures, signature{id, ed25519.Sign(key, signed(ArtifactType, payload))})
	}
	return json.Marshal(e)
}

// open answers the payload of an envelope. PermissionDenied when nobody who is trusted has signed it.
func (t Trust) open(data []byte) ([]byte, error) {
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, invalid("the envelope cannot be read: %v", err)
	}
	if e.PayloadType != ArtifactType {
		return nil, invalid("the envelope holds %.100q", e.PayloadType)
	}
	if len(e.Signatures) > maxSignatures {
		return nil, invalid("the envelope has %d signatures", len(e.Signatures))
	}
	if t.Registry {
		return e.Payload, nil
	}
	message := signed(e.PayloadType, e.Payload)
	for _, key := range t.Keys {
		if slices.ContainsFunc(e.Signatures, func(s signature) bool { return ed25519.Verify(key, message, s.Sig) }) {
			return e.Payload, nil
		}
	}
	return nil, fmt.Errorf("none of its %d signatures is by a trusted key: %w", len(e.Signatures), errdefs.ErrPermissionDenied)
}

// ParsePublicKey reads a key in PEM, as "openssl pkey -pubout" writes it.
func ParsePublicKey(text []byte) (ed25519.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, invalid("there is no PEM block PUBLIC KEY")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, invalid("cannot read the public key: %v", err)
	}
	public, ok := key.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the public key is a %T, only Ed25519 is used for indexes: %w", key, errdefs.ErrNotImplemented)
	}
	return public, nil
}

// ParsePrivateKey reads a key in PEM, as "openssl genpkey -algorithm ed25519" writes it.
func ParsePrivateKey(text []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, invalid("there is no PEM block PRIVATE KEY (make one with: openssl genpkey -algorithm ed25519)")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, invalid("cannot read the private key: %v", err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the private key is a %T, only Ed25519 is used for indexes: %w", key, errdefs.ErrNotImplemented)
	}
	return private, nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}
