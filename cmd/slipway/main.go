// Command slipway is the command line of Slipway: a client of the daemon's API like any other.
//
// It owns what a person types and sees. It imports no daemon code, and its death leaves containers running.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/slipwayd/slipway/client"
)

var version = "dev" // set by the linker

// app is what every command shares.
type app struct {
	address, namespace, snapshotter string

	in       io.Reader
	out, err io.Writer
}

func main() {
	// A second Ctrl-C ends the program the hard way.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(execute(ctx, os.Args[1:], &app{in: os.Stdin, out: os.Stdout, err: os.Stderr}))
}

// execute runs one command line and answers the exit code.
func execute(ctx context.Context, args []string, a *app) int {
	root := a.root()
	root.SetArgs(args)
	root.SetOut(a.out)
	root.SetErr(a.err)
	err := root.ExecuteContext(ctx)
	if err != nil && strings.HasPrefix(err.Error(), "unknown command") && !strings.Contains(err.Error(), "--help") {
		err = helpful(root, err)
	}
	return a.report(ctx, err)
}

func (a *app) root() *cobra.Command {
	cmd := &cobra.Command{
		Use: "slipway", Short: "Run containers, also before their image has landed",
		SilenceErrors: true, SilenceUsage: true, DisableSuggestions: true, Version: version,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&a.address, "address", client.Address(), "daemon's socket or named pipe (SLIPWAY_ADDRESS)")
	f.StringVarP(&a.namespace, "namespace", "n", envOr("SLIPWAY_NAMESPACE", "default"), "namespace (SLIPWAY_NAMESPACE)")
	f.StringVar(&a.snapshotter, "snapshotter", os.Getenv("SLIPWAY_SNAPSHOTTER"), "snapshotter, the daemon's default if empty (SLIPWAY_SNAPSHOTTER)")
	cmd.AddCommand(
		a.pullCmd(), a.pushCmd(), a.imagesCmd(), a.imageCmd(), a.rmiCmd(),
		a.runCmd(), a.execCmd(), a.psCmd(), a.logsCmd(), a.stopCmd(), a.killCmd(), a.rmCmd(), a.checkpointCmd(), a.restoreCmd(),
		a.inspectCmd(), a.eventsCmd(), a.infoCmd(), a.versionCmd(),
	)
	cmd.SetFlagErrorFunc(helpful)
	explainArgs(cmd)
	return cmd
}

// explainArgs makes all commands below cmd helpful about a wrong number of arguments.
func explainArgs(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		check := sub.Args
		sub.Args = func(cmd *cobra.Command, args []string) error { return helpful(cmd, check(cmd, args)) }
		explainArgs(sub)
	}
}

// group is a command that only has others below it.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.NoArgs // checked only of commands that can be run
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// goNames are words of Go's standard library in errors of flags.
var goNames = regexp.MustCompile(`strconv\.\w+: parsing "[^"]*": `)

// helpful adds to a mistake in the command line where the right form is found.
func helpful(cmd *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s; see %s --help", goNames.ReplaceAllString(err.Error(), ""), cmd.CommandPath())
}

func envOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// with connects, calls fn and disconnects.
func (a *app) with(fn func(c *client.Client) error) error {
	c, err := client.New(a.address, client.WithNamespace(a.namespace), client.WithSnapshotter(a.snapshotter))
	if err != nil {
		return err
	}
	defer c.Close()
	return fn(c)
}

// atOnce is how many names each works on side by side.
const atOnce = 16

// each calls fn for every name, goes on after an error, prints the names that went well and answers all errors, both in the
// order of names.
func (a *app) each(names []string, fn func(name string) error) error {
	slots := make(chan struct{}, atOnce)
	done := make([]chan error, len(names))
	for i, n := range names {
		done[i] = make(chan error, 1)
		go func() {
			slots <- struct{}{}
			done[i] <- fn(n)
			<-slots
		}()
	}
	var errs []error
	for i, n := range names {
		if err := <-done[i]; err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", n, err))
			continue
		}
		fmt.Fprintln(a.out, n)
	}
	return errors.Join(errs...)
}
