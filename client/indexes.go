package client

import (
	"context"

	slipwayapi "github.com/slipwayd/slipway/api/slipway/v1"
)

// PushIndexesOptions say how indexes are published; the zero value publishes them for the daemon's platform, not signed.
type PushIndexesOptions struct {
	Key          []byte // private key to sign with: PEM, PKCS #8, Ed25519
	Platform     string // os/arch[/variant]
	User, Secret string // for the registry; the daemon's own credentials when empty
	PlainHTTP    bool   // the registry speaks no TLS; loopback addresses need not say so
}

// PushedIndexes is what was published.
type PushedIndexes struct {
	Digest   string // of the artifact
	Size     int64  // bytes of all indexes
	Layers   []string
	Without  map[string]string // layers by digest that have no index, and why
	Profiles int               // start profiles that were published too
}

// PushIndexes publishes, beside the image of that full name in its registry, what the daemon knows of its layers. Of Slipway's daemon only.
func (c *Client) PushIndexes(ctx context.Context, name string, o PushIndexesOptions) (PushedIndexes, error) {
	r, err := slipwayapi.NewImagesClient(c.conn).PushIndexes(ctx, &slipwayapi.PushIndexesRequest{
		Image: name, Key: o.Key, Platform: o.Platform, User: o.User, Secret: o.Secret, PlainHttp: o.PlainHTTP,
	})
	if err != nil {
		return PushedIndexes{}, err
	}
	return PushedIndexes{r.Digest, r.Size, r.Layers, r.Without, int(r.Profiles)}, nil
}
