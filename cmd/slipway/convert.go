package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipwayd/slipway/client"
)

func (a *app) imageCmd() *cobra.Command {
	cmd := group(&cobra.Command{Use: "image", Short: "Work with images that start before they have landed"})
	cmd.AddCommand(a.convertCmd(), a.optimizeCmd(), a.indexCmd(), a.profileCmd(), a.waitCmd(), a.pullsCmd())
	return cmd
}

func (a *app) convertCmd() *cobra.Command {
	var quiet bool
	var o client.ConvertOptions
	cmd := &cobra.Command{
		Use: "convert SOURCE TARGET", Short: "Make an image whose layers can be read before they are here whole", Args: cobra.ExactArgs(2),
		Long: `Make of the image SOURCE, which has been pulled, the image TARGET with layers of another format. The same image
gives the same digests everywhere and at any time.

  estargz       what most lazy snapshotters read; adds a file to each layer, so diff IDs change
  zstd:chunked  what podman and CRI-O read; diff IDs stay`,
		Example: "  slipway image convert alpine registry.example/alpine:esgz && slipway push registry.example/alpine:esgz",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.convert(cmd.Context(), args[0], args[1], quiet, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Format, "format", "estargz", "estargz or zstd:chunked")
	f.StringSliceVar(&o.Platforms, "platform", nil, "os/arch[/variant] to convert; all that are here if not given")
	f.BoolVarP(&quiet, "quiet", "q", false, "print the image's name only")
	return cmd
}

func (a *app) optimizeCmd() *cobra.Command {
	var quiet bool
	var paths string
	o := client.ConvertOptions{Format: "estargz"}
	cmd := &cobra.Command{
		Use: "optimize [--paths FILE] SOURCE TARGET", Short: "Convert to estargz with the files that a start needs in front", Args: cobra.ExactArgs(2),
		Long: `Make of the image SOURCE, which has been pulled, the image TARGET in estargz, in whose layers the files that a start
needs come first. Whoever pulls it lazily fetches those at once. Without --paths they are those that starts of SOURCE have read
on this host while it was used lazily (slipway image profile).`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.FirstProfiled = paths == ""; !o.FirstProfiled {
				if o.First, err = a.readPaths(paths); err != nil {
					return err
				}
			}
			return a.convert(cmd.Context(), args[0], args[1], quiet, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&paths, "paths", "", "file with a path a line, in the order they are needed; - for standard input; what starts have read if not given")
	f.StringSliceVar(&o.Platforms, "platform", nil, "os/arch[/variant] to convert; all that are here if not given")
	f.BoolVarP(&quiet, "quiet", "q", false, "print the image's name only")
	return cmd
}

// readPaths reads a list of files of an image. Empty lines and those that begin with # say nothing.
func (a *app) readPaths(name string) ([]string, error) {
	var in io.Reader = a.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("cannot read the list of files: %w", err)
		}
		defer f.Close()
		in = f
	}
	var paths []string
	s := bufio.NewScanner(in)
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); line != "" && line[0] != '#' {
			paths = append(paths, line)
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("cannot read the list of files: %w", err)
	}
	if len(paths) == 0 {
		return nil, errors.New("the list of files is empty")
	}
	return paths, nil
}

func (a *app) convert(ctx context.Context, source, target string, quiet bool, o client.ConvertOptions) error {
	if o.Format != "estargz" && o.Format != "zstd:chunked" {
		return fmt.Errorf("--format %q is neither estargz nor zstd:chunked", o.Format)
	}
	return a.with(func(c *client.Client) error {
		img, err := findImage(ctx, c, source)
		if err != nil {
			return err
		}
		show := newProgress(a.err, quiet)
		o.Progress = show.update
		made, err := c.Convert(ctx, img.Name, target, o)
		show.finish(err)
		if err != nil {
			return err
		}
		for _, layer := range slices.Sorted(maps.Keys(made.Kept)) {
			fmt.Fprintf(a.err, "layer %s stays as it is: %s\n", layer, made.Kept[layer])
		}
		fmt.Fprintln(a.out, pinned(client.Image{Name: made.Name, Target: made.Target}))
		return nil
	})
}

func (a *app) pushCmd() *cobra.Command {
	var quiet, plain bool
	var user string
	cmd := &cobra.Command{
		Use: "push IMAGE [NAME]", Short: "Send an image to a registry, under its own name or another", Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := client.PushOptions{PlainHTTP: plain}
			if user != "" {
				o.Credentials = login(user)
			}
			return a.with(func(c *client.Client) error {
				img, err := findImage(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				ref := img.Name
				if len(args) > 1 {
					ref = args[1]
				}
				show := newProgress(a.err, quiet)
				o.Progress = show.update
				err = c.Push(cmd.Context(), img.Name, ref, o)
				show.finish(err)
				if err == nil {
					fmt.Fprintln(a.out, ref+"@"+img.Target.Digest.String())
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "print the image's name only")
	f.BoolVar(&plain, "plain-http", false, "the registry speaks no TLS (loopback addresses need not say so)")
	f.StringVarP(&user, "user", "u", "", "USER:PASSWORD for the registry; else the daemon's docker config is used")
	return cmd
}

// login answers the credentials of a flag.
func login(user string) func(context.Context, string) (string, string, error) {
	name, secret, _ := strings.Cut(user, ":")
	return func(context.Context, string) (string, string, error) { return name, secret, nil }
}
