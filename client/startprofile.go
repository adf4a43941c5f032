package client

import (
	"context"
	"time"

	slipwayapi "github.com/slipwayd/slipway/api/slipway/v1"
)

// StartProfile tells what starts of an image with one command line read while it was used lazily.
type StartProfile struct {
	Image    string    `json:"image"`            // digest of the manifest
	Command  string    `json:"command"`          // name of the program
	Args     string    `json:"args"`             // hash of the command line
	Origin   string    `json:"origin,omitempty"` // where it comes from; empty for the daemon's host
	Starts   int       `json:"starts"`           // it is made of so many
	Recorded time.Time `json:"recorded"`         // the last of them
	Layers   int       `json:"layers"`
	Files    int       `json:"files"`
	Bytes    int64     `json:"bytes"` // of the files, without files that are wanted whole
}

// StartProfiles lists what the daemon knows of starts of the image of that full name, the profile used last first. NotFound when there is
// no such image.
func (c *Client) StartProfiles(ctx context.Context, image string) ([]StartProfile, error) {
	r, err := slipwayapi.NewLazyClient(c.conn).StartProfiles(ctx, &slipwayapi.StartProfilesRequest{Image: image})
	if err != nil {
		return nil, err
	}
	out := make([]StartProfile, len(r.Profiles))
	for i, p := range r.Profiles {
		out[i] = StartProfile{Image: p.Image, Command: p.Command, Args: p.Args, Origin: p.Origin, Starts: int(p.Starts),
			Recorded: time.Unix(p.Recorded, 0), Layers: int(p.Layers), Files: int(p.Files), Bytes: p.Bytes}
	}
	return out, nil
}
