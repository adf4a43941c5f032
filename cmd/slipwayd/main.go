// Command slipwayd is the daemon: containerd's gRPC API over an engine.
//
// It owns flags, configuration and wiring: run.go is the life of the process from lock to last goodbye, supervise_*.go what starts and
// stops it besides a terminal, wire.go makes the parts in order. Everything else is packages' work. What a crash leaves is what they say; the lock on the root ends with
// the process, and the next daemon replaces the sockets.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

func main() {
	if err := command().ExecuteContext(context.Background()); err != nil {
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintln(os.Stderr, "slipwayd:", strings.TrimRight(line, "\n"))
		}
		os.Exit(1)
	}
}

// flags that win over the configuration file when given.
type flags struct {
	config, root, state, address, logLevel string
	service                                string // what Windows runs us as; empty at a console
}

func command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "slipwayd",
		Short: "A container runtime daemon",
		Long: `slipwayd pulls images, keeps their content and runs containers. It serves containerd's API on a unix socket, or a named pipe on Windows.

Daemons with different --root, --state and --address run side by side and share nothing.`,
		Args: cobra.NoArgs, Version: version, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			load := func() (config, error) { return f.load(cmd.Flags().Changed) }
			return supervised(cmd.Context(), f.service, load)
		},
	}
	cmd.SetVersionTemplate("slipwayd {{.Version}}\n")
	fs := cmd.Flags()
	fs.StringVarP(&f.config, "config", "c", defaultConfigFile, "configuration file")
	fs.StringVar(&f.root, "root", "", "directory of persistent files (default "+strconv.Quote(defaultRoot)+")")
	fs.StringVar(&f.state, "state", "", "directory of files that end with a reboot (default "+strconv.Quote(defaultState)+")")
	fs.StringVarP(&f.address, "address", "a", "", "socket to serve (default "+strconv.Quote(defaultAddress)+")")
	fs.StringVarP(&f.logLevel, "log-level", "l", "", "debug, info, warn or error (default \"info\")")
	cmd.AddCommand(configCommand())
	addSystem(cmd, &f)
	cmd.CompletionOptions.DisableDefaultCmd = true
	return cmd
}

func configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Show the configuration"}
	cmd.AddCommand(&cobra.Command{
		Use: "default", Short: "Print a configuration file with every field, its default and its meaning", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(cmd.OutOrStdout(), defaultConfigText())
			return err
		},
	})
	return cmd
}

// load reads the configuration file and puts the flags over it.
func (f flags) load(given func(flag string) bool) (config, error) {
	c, err := loadConfig(f.config, given("config"))
	if err != nil {
		return c, err
	}
	for flag, set := range map[string]func() error{
		"root":    func() error { return absolute(&c.Root, f.root) },
		"state":   func() error { return absolute(&c.State, f.state) },
		"address": func() error { c.Address = f.address; return nil },
		"log-level": func() error {
			return c.Log.Level.UnmarshalText([]byte(f.logLevel))
		},
	} {
		if !given(flag) {
			continue
		}
		if err := set(); err != nil {
			return c, fmt.Errorf("flag --%s: %w", flag, err)
		}
	}
	if filepath.Clean(c.Root) == filepath.Clean(c.State) {
		return c, fmt.Errorf("root and state must be two directories, not both %q", c.Root)
	}
	err = c.check()
	c.Address = cleanAddress(c.Address)
	return c, err
}

// absolute sets a directory from a flag, which may be relative to where the user is.
func absolute(to *string, path string) (err error) {
	*to, err = filepath.Abs(path)
	return err
}
