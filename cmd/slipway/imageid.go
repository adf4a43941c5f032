package main

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/client"
)

// imageID is what may be an image's id as docker's users write it: the digest of its manifest (or index), as "slipway images" shows it, or of its
// config, with as many digits as tell it from others.
var imageID = regexp.MustCompile(`^(sha256:)?[0-9a-f]{4,64}$`)

// isID tells whether name can be nothing but an id: there is no image to pull by it.
func isID(name string) bool {
	return imageID.MatchString(name) && (strings.HasPrefix(name, digest.SHA256.String()+":") || len(name) == digest.SHA256.Size()*2)
}

// hasID tells whether d begins with id.
func hasID(d digest.Digest, id string) bool {
	if !strings.HasPrefix(id, digest.SHA256.String()+":") {
		id = digest.SHA256.String() + ":" + id
	}
	return strings.HasPrefix(d.String(), id)
}

// imagesByID answers all names of the one image that has an id. NotFound without one, InvalidArgument when several images have it.
func imagesByID(ctx context.Context, c *client.Client, id string) ([]client.Image, error) {
	images, err := c.Images(ctx)
	if err != nil {
		return nil, err
	}
	var found []client.Image
	for _, img := range images {
		if hasID(img.Target.Digest, id) {
			found = append(found, img)
		}
	}
	if len(found) == 0 {
		for _, img := range images {
			d, err := c.Detail(ctx, img, nil)
			switch {
			case err == nil && hasID(d.ConfigID, id):
				found = append(found, img)
			case err != nil && !errdefs.IsNotFound(err): // else of another platform
				return nil, err
			}
		}
	}
	return oneImage(found, id)
}

// oneImage is images, if there are any and they are one.
func oneImage(images []client.Image, id string) ([]client.Image, error) {
	if len(images) == 0 {
		return nil, fmt.Errorf("no image has the id %s: %w", id, errdefs.ErrNotFound)
	}
	for _, img := range images[1:] {
		if img.Target.Digest != images[0].Target.Digest {
			return nil, fmt.Errorf("%s and %s both have an id that begins with %s: give more of it: %w", images[0].Name, img.Name, id, errdefs.ErrInvalidArgument)
		}
	}
	return images, nil
}

// oneName is FailedPrecondition when name is an id of an image with several names.
func oneName(ctx context.Context, c *client.Client, name string, img client.Image) error {
	if !imageID.MatchString(name) || !hasID(img.Target.Digest, name) {
		return nil
	}
	images, err := imagesByID(ctx, c, name)
	if err != nil || len(images) < 2 {
		return err
	}
	return fmt.Errorf("the image has the names %s and %s: say which to remove: %w", images[0].Name, images[1].Name, errdefs.ErrFailedPrecondition)
}
