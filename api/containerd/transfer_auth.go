package containerd

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	transfertypes "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"

	"github.com/slipwayd/slipway/image/registry"
)

// credentialWait bounds how long a client may think about credentials: clients that fail to find any answer nothing at all.
const credentialWait = time.Minute

// credentialStream asks the client for credentials over the stream that it opened for that, one question at a time.
type credentialStream struct {
	s         *stream
	reference string
	turn      chan struct{} // one token, held while a question is out
}

// ask is the registry.CredentialFunc.
func (c *credentialStream) ask(ctx context.Context, host string) (registry.Credential, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return registry.Credential{}, ctx.Err()
	}
	// A stream that was left in the middle of a question would hand the late answer to the next one: it ends instead.
	ctx, cancel := context.WithTimeout(ctx, credentialWait)
	defer cancel()
	defer context.AfterFunc(ctx, c.s.close)()
	fail := func(err error) (registry.Credential, error) {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return registry.Credential{}, fmt.Errorf("cannot get credentials for %s from the client: %w", host, err)
	}
	if err := c.s.send(&transfertypes.AuthRequest{Host: host, Reference: c.reference}); err != nil {
		return fail(err)
	}
	msg, err := c.s.receive()
	if err != nil {
		return fail(err)
	}
	var answer transfertypes.AuthResponse
	if err := typeurl.UnmarshalTo(msg, &answer); err != nil {
		return fail(fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument))
	}
	cred, err := credential(&answer)
	if err != nil {
		return fail(err)
	}
	return cred, nil
}

// credential translates an answer. Clients without credentials answer REFRESH with an empty secret.
func credential(a *transfertypes.AuthResponse) (registry.Credential, error) {
	switch a.AuthType {
	case transfertypes.AuthType_NONE:
		return registry.Credential{}, nil
	case transfertypes.AuthType_CREDENTIALS:
		return registry.Credential{Username: a.Username, Password: a.Secret}, nil
	case transfertypes.AuthType_REFRESH:
		return registry.Credential{RefreshToken: a.Secret}, nil
	case transfertypes.AuthType_HEADER:
		return headerCredential(a.Secret)
	}
	return registry.Credential{}, fmt.Errorf("credentials of type %d: %w", a.AuthType, errdefs.ErrInvalidArgument)
}

// headerCredential takes the value of an Authorization header apart (RFC 6750, RFC 7617).
func headerCredential(header string) (registry.Credential, error) {
	scheme, value, _ := strings.Cut(header, " ")
	value = strings.TrimSpace(value)
	switch strings.ToLower(scheme) {
	case "bearer":
		return registry.Credential{AccessToken: value}, nil
	case "basic":
		plain, err := base64.StdEncoding.DecodeString(value)
		user, password, ok := strings.Cut(string(plain), ":")
		if err == nil && ok {
			return registry.Credential{Username: user, Password: password}, nil
		}
	}
	return registry.Credential{}, fmt.Errorf("authorization header of scheme %.20q cannot be used: %w", scheme, errdefs.ErrInvalidArgument)
}
