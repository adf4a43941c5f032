package client

import (
	"context"
	"time"

	slipwayapi "github.com/slipwayd/slipway/api/slipway/v1"
)

// Pulling is an image on its way to the host. Its JSON is what slipway image pulls prints.
type Pulling struct {
	Ref       string    `json:"ref"` // as it was asked for
	Begun     time.Time `json:"begun"`
	Done      int64     `json:"done"`  // bytes that are here
	Total     int64     `json:"total"` // bytes that are known to be needed
	Unpacking bool      `json:"unpacking"`
}

// Pulls lists the images of the client's namespace that are being pulled, whoever asked for them, the oldest first. NotImplemented from a
// daemon that is not Slipway's.
func (c *Client) Pulls(ctx context.Context) ([]Pulling, error) {
	r, err := slipwayapi.NewImagesClient(c.conn).Pulls(ctx, &slipwayapi.PullsRequest{})
	if err != nil {
		return nil, err
	}
	list := make([]Pulling, len(r.Pulls))
	for i, p := range r.Pulls {
		list[i] = Pulling{Ref: p.Ref, Begun: p.Begun.AsTime(), Done: p.Done, Total: p.Total, Unpacking: p.Unpacking}
	}
	return list, nil
}
