package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/slipwayd/slipway/client"
	"github.com/slipwayd/slipway/image/reference"
)

func (a *app) pullCmd() *cobra.Command {
	var quiet, plain, noUnpack bool
	var platform, user string
	var lazy lazyMode
	cmd := &cobra.Command{
		Use: "pull IMAGE", Short: "Fetch an image from its registry", Args: cobra.ExactArgs(1),
		Long: `Fetch an image from its registry and make it ready to run. Lazily pulled layers are read from the registry when a container
needs them, and arrive in the background.`,
		Example: `  slipway pull alpine                            # docker.io/library/alpine:latest
  slipway pull registry.example/app:v1 -u ada:secret
  slipway pull --lazy=always python              # ready at once, if its layers have an index`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o := client.PullOptions{PlainHTTP: plain, NoUnpack: noUnpack, Lazy: string(lazy)}
			if platform != "" {
				p, err := platforms.Parse(platform)
				if err != nil {
					return fmt.Errorf("--platform: %w", err)
				}
				o.Platforms, o.NoUnpack = []ocispec.Platform{p}, noUnpack || !platforms.Default().Match(p)
			}
			if user != "" {
				o.Credentials = login(user)
			}
			return a.with(func(c *client.Client) error {
				img, err := a.pull(cmd.Context(), c, args[0], quiet, o)
				if err != nil {
					return err
				}
				if !quiet && lazy != "" && lazy != "never" {
					a.tellLazy(cmd.Context(), c, img.Name)
				}
				fmt.Fprintln(a.out, pinned(img))
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "print the image's name only")
	f.BoolVar(&plain, "plain-http", false, "the registry speaks no TLS (loopback addresses need not say so)")
	f.BoolVar(&noUnpack, "no-unpack", false, "fetch only, do not make root file systems")
	f.StringVar(&platform, "platform", "", "os/arch[/variant] instead of this host's")
	lazy.add(cmd)
	f.StringVarP(&user, "user", "u", "", "USER:PASSWORD for the registry; else the daemon's docker config is used")
	return cmd
}

// pinned is the image's name with its digest.
func pinned(img client.Image) string {
	if strings.HasSuffix(img.Name, "@"+img.Target.Digest.String()) {
		return img.Name
	}
	return img.Name + "@" + img.Target.Digest.String()
}

// pull fetches ref and shows how far it is.
func (a *app) pull(ctx context.Context, c *client.Client, ref string, quiet bool, o client.PullOptions) (client.Image, error) {
	show := newProgress(a.err, quiet)
	o.Progress = show.update
	img, err := c.Pull(ctx, ref, o)
	show.finish(err)
	if errdefs.IsNotFound(err) && strings.Contains(err.Error(), "404 Not Found") { // the registry's
		err = fmt.Errorf("%w (are its name and tag right?)", err)
	}
	return img, err
}

type imageRow struct {
	Name    string             `json:"name"`
	Target  ocispec.Descriptor `json:"target"`
	Created time.Time          `json:"created"`
	Size    int64              `json:"size"` // bytes in the registry, of this host's platform; 0 when its content is not here
	Labels  map[string]string  `json:"labels,omitempty"`
}

func rowOf(img client.Image, d client.ImageDetail) imageRow {
	return imageRow{img.Name, img.Target, img.CreatedAt, d.Size, img.Labels}
}

func (a *app) imagesCmd() *cobra.Command {
	var f format
	var quiet, lazy bool
	cmd := &cobra.Command{
		Use: "images", Short: "List images", Args: cobra.NoArgs,
		Long: `List images. With --lazy, how their layers are here: lazy (in the registry and read from there), arrived (was that, and is here)
or full (pulled in full; slipway inspect IMAGE says why). Of lazy ones it shows how much of their files is HERE, what was fetched
for readers that waited (DEMAND), for a start PROFILE and in the BACKGROUND, and how many reads had not to wait (HITS).`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error {
				images, err := c.Images(cmd.Context())
				switch {
				case err != nil:
					return err
				case quiet:
					for _, img := range images {
						fmt.Fprintln(a.out, img.Name)
					}
					return nil
				case lazy:
					rows, err := lazyRows(cmd.Context(), c, images)
					if err != nil {
						return err
					}
					return list(a.out, f, rows, []string{"IMAGE", "LAYERS", "HERE", "DEMAND", "PROFILE", "BACKGROUND", "HITS"}, lazyRow.columns)
				}
				rows := make([]imageRow, 0, len(images))
				for _, img := range images {
					d, err := c.Detail(cmd.Context(), img, nil)
					if err != nil && !errdefs.IsNotFound(err) {
						return err
					}
					rows = append(rows, rowOf(img, d))
				}
				return list(a.out, f, rows, []string{"IMAGE", "DIGEST", "CREATED", "SIZE"}, func(r imageRow) []string {
					return []string{r.Name, r.Target.Digest.Encoded()[:12], ago(r.Created), size(r.Size)}
				})
			})
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names only")
	cmd.Flags().BoolVar(&lazy, "lazy", false, "show how their layers are here")
	return cmd
}

func (a *app) rmiCmd() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "rmi IMAGE...", Short: "Remove images; space is freed when nothing else uses it", Args: cobra.MinimumNArgs(1),
		Example: "  slipway rmi alpine registry.example/app:v1",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				return a.each(args, func(name string) error {
					img, err := findImage(cmd.Context(), c, name)
					if err != nil {
						return err
					}
					if err := oneName(cmd.Context(), c, name, img); err != nil {
						return err
					}
					if err := unused(cmd.Context(), c, img.Name); err != nil && !force {
						return err
					}
					return c.DeleteImage(cmd.Context(), img.Name, true)
				})
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also when containers use it; they keep their files")
	return cmd
}

// unused is FailedPrecondition for an image of a container.
func unused(ctx context.Context, c *client.Client, image string) error {
	users, err := c.Containers(ctx, "image=="+strconv.Quote(image))
	if err != nil || len(users) == 0 {
		return err
	}
	return fmt.Errorf("container %s uses it: remove that first or use --force: %w", users[0].ID, errdefs.ErrFailedPrecondition)
}

// findImage looks an image up as a user names it: by its name, or else by its id.
func findImage(ctx context.Context, c *client.Client, name string) (client.Image, error) {
	r, err := reference.Parse(name)
	if err == nil {
		img, err := c.Image(ctx, r.String())
		if !errdefs.IsNotFound(err) {
			return img, err
		}
	}
	img, err := c.Image(ctx, name) // other clients may use names of other forms
	if errdefs.IsNotFound(err) && imageID.MatchString(name) {
		var images []client.Image
		if images, err = imagesByID(ctx, c, name); err == nil {
			return images[0], nil
		}
	}
	if isID(name) {
		return img, err
	}
	return img, explainNoImage(name, err)
}
