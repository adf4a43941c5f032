package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipwayd/slipway/client"
)

func (a *app) indexCmd() *cobra.Command {
	cmd := group(&cobra.Command{Use: "index", Short: "Publish what lets others start an image before it is there"})
	cmd.AddCommand(a.indexPushCmd())
	return cmd
}

func (a *app) indexPushCmd() *cobra.Command {
	var key, user string
	var o client.PushIndexesOptions
	cmd := &cobra.Command{
		Use: "push IMAGE", Short: "Publish the indexes of an image's layers, and what its starts read, beside it in its registry", Args: cobra.ExactArgs(1),
		Long: `Publish what this host recorded of the layers of IMAGE when it pulled them, as an artifact beside the image in its registry.
The image itself stays as it is. Hosts that trust the key (lazy.trust_keys in slipwayd's configuration) then start it before it has
landed, also the first time.`,
		Example: `  openssl genpkey -algorithm ed25519 -out key.pem && openssl pkey -in key.pem -pubout -out key.pub
  slipway image index push registry.example/app:v1 --key key.pem`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if key != "" {
				if o.Key, err = os.ReadFile(key); err != nil {
					return fmt.Errorf("cannot read the key to sign with: %w", err)
				}
			}
			o.User, o.Secret, _ = strings.Cut(user, ":")
			return a.with(func(c *client.Client) error {
				img, err := findImage(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				p, err := c.PushIndexes(cmd.Context(), img.Name, o)
				if err != nil {
					return err
				}
				for _, layer := range slices.Sorted(maps.Keys(p.Without)) {
					fmt.Fprintf(a.err, "layer %s has no index: %s\n", layer, p.Without[layer])
				}
				fmt.Fprintf(a.err, "published indexes (layers: %d, start profiles: %d, size: %s)\n", len(p.Layers), p.Profiles, size(p.Size))
				fmt.Fprintln(a.out, p.Digest)
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&key, "key", "", "file with the private key to sign with (PEM, Ed25519); not signed without")
	f.StringVar(&o.Platform, "platform", "", "os/arch[/variant]; this host's if not given")
	f.BoolVar(&o.PlainHTTP, "plain-http", false, "the registry speaks no TLS (loopback addresses need not say so)")
	f.StringVarP(&user, "user", "u", "", "USER:PASSWORD for the registry; else the daemon's docker config is used")
	return cmd
}
