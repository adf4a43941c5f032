package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/slipwayd/slipway/client"
)

// lazyMode is the value of --lazy.
type lazyMode string

func (l *lazyMode) add(cmd *cobra.Command) {
	cmd.Flags().Var(l, "lazy", "use layers before they are here: auto (where it helps), always or never; else the daemon's configuration says")
}

func (l *lazyMode) String() string { return string(*l) }
func (l *lazyMode) Type() string   { return "auto|always|never" }
func (l *lazyMode) Set(s string) error {
	if s != "auto" && s != "always" && s != "never" {
		return fmt.Errorf("%q is none of auto, always, never", s)
	}
	*l = lazyMode(s)
	return nil
}

// lazyRow is a line of images --lazy.
type lazyRow struct {
	Name   string             `json:"name"`
	Layers []client.LazyLayer `json:"layers"`
}

// modes counts the layers: "2 lazy, 1 full".
func (r lazyRow) modes() string {
	var parts []string
	for _, mode := range []string{client.LayerLazy, client.LayerArrived, client.LayerFull, client.LayerAbsent} {
		n := 0
		for _, l := range r.Layers {
			if l.Mode == mode {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, fmt.Sprint(n, " ", mode))
		}
	}
	return strings.Join(parts, ", ")
}

func (r lazyRow) columns() []string {
	var sum client.LayerReads
	served := false
	for _, l := range r.Layers {
		if l.Reads == nil {
			continue
		}
		served = true
		sum.Files += l.Reads.Files
		sum.Here += l.Reads.Here
		sum.Demand += l.Reads.Demand
		sum.Profile += l.Reads.Profile
		sum.Background += l.Reads.Background
		sum.Count += l.Reads.Count
		sum.Waited += l.Reads.Waited
	}
	if !served {
		return []string{r.Name, r.modes(), "all", "", "", "", ""}
	}
	hits := ""
	if sum.Count > 0 { // over all layers, so not the mean of their rates
		hits = fmt.Sprintf("%.0f%%", 100*float64(sum.Count-sum.Waited)/float64(sum.Count))
	}
	return []string{r.Name, r.modes(), size(sum.Here) + " of " + size(sum.Files), size(sum.Demand), size(sum.Profile), size(sum.Background), hits}
}

// lazyRows is how the layers of images are here. One whose content is not here has none to tell of.
func lazyRows(ctx context.Context, c *client.Client, images []client.Image) ([]lazyRow, error) {
	rows := make([]lazyRow, 0, len(images))
	for _, img := range images {
		layers, err := c.LazyLayers(ctx, img.Name)
		if err != nil && !errdefs.IsNotFound(err) {
			return nil, err
		}
		rows = append(rows, lazyRow{img.Name, layers})
	}
	return rows, nil
}

// tellLazy says after a pull that was to be lazy what came of it.
func (a *app) tellLazy(ctx context.Context, c *client.Client, image string) {
	layers, err := c.LazyLayers(ctx, image)
	if err != nil {
		return // the image is pulled
	}
	served := 0
	for _, l := range layers {
		switch {
		case l.Mode == client.LayerLazy:
			served++
		case l.Mode == client.LayerFull && l.Reason != "":
			fmt.Fprintf(a.err, "layer %s is here in full: %s\n", l.Digest.Encoded()[:12], l.Reason)
		}
	}
	if served > 0 {
		fmt.Fprintf(a.err, "%d of %d layers are read from the registry until they are here; see slipway images --lazy\n", served, len(layers))
	}
}

func (a *app) waitCmd() *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use: "wait IMAGE...", Short: "Wait until all layers of images that were pulled lazily are here", Args: cobra.MinimumNArgs(1),
		Long: `Fetch what is still in the registry of images that were pulled lazily, at full speed, and return when all of it is here: from then on
the registry is not needed.`,
		Example: "  slipway pull --lazy=always python && slipway image wait python",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				return a.each(args, func(name string) error {
					img, err := findImage(cmd.Context(), c, name)
					if err != nil {
						return err
					}
					return a.waitLazy(cmd.Context(), c, img.Name, quiet)
				})
			})
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print nothing")
	return cmd
}

// waitLazy waits until all of an image is here, and shows how far that is.
func (a *app) waitLazy(ctx context.Context, c *client.Client, image string, quiet bool) error {
	show := newProgress(a.err, quiet)
	err := c.WaitLazy(ctx, image, show.update)
	show.finish(err)
	return err
}
