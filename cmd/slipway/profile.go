package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"github.com/slipwayd/slipway/client"
)

func (a *app) profileCmd() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use: "profile IMAGE", Short: "List what starts of an image read, as it was recorded", Args: cobra.ExactArgs(1),
		Long: `List the start profiles of IMAGE: what its starts have read while its layers were not here, and the files that its first starts
opened when they were. They are recorded by themselves, one for each command line, and what is in them is fetched first when the image is
used again after it was removed.
slipway image index push publishes them for other hosts.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				img, err := findImage(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				profiles, err := c.StartProfiles(cmd.Context(), img.Name)
				if err != nil {
					return err
				}
				header := []string{"COMMAND", "ARGS", "STARTS", "RECORDED", "LAYERS", "FILES", "SIZE", "ORIGIN"}
				return list(a.out, f, profiles, header, func(p client.StartProfile) []string {
					origin := p.Origin
					if origin == "" {
						origin = "this host"
					}
					return []string{p.Command, p.Args, strconv.Itoa(p.Starts), ago(p.Recorded), strconv.Itoa(p.Layers), strconv.Itoa(p.Files), size(p.Bytes), origin}
				})
			})
		},
	}
	f.add(cmd)
	return cmd
}
