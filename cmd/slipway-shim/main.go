// Command slipway-shim runs containers: one process for the whole host by default, behind containerd's task API v2 and v3
// over ttrpc. slipwayd starts it as "slipway-shim serve" and does not take it along when it ends. Linked as
// containerd-shim-slipway-v1 it serves a stock containerd, with that one's command line: start, delete, -info and -v.
//
// The same binary is executed once more inside every container as its init; whatever is linked here, every start of a
// container pays for. No gRPC server, no daemon.
//
// What a crash leaves: containers, which run on until another shim of the same state directory adopts them.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/slipwayd/slipway/shim/stdio"
)

// version is set by the linker.
var version = "dev"

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintf(os.Stderr, "slipway-shim: %v\n", err)
		}
		os.Exit(1)
	}
}

func run(args []string, stdin io.Reader, stdout io.Writer) error {
	switch {
	case len(args) > 0 && args[0] == "serve":
		return runServe(args[1:])
	case len(args) == 1 && args[0] == "pause":
		return pause()
	case len(args) == 2 && args[0] == "log": // of a container of another shim, which started us as its logger (containerd's runtime v2 README)
		stdout, stderr, ready, err := stdio.LoggerStreams()
		if err != nil {
			return err
		}
		return stdio.LogCRI(args[1], stdout, stderr, ready, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	}
	return runContainerd(args, stdin, stdout)
}

// runServe reads the command line that slipwayd uses.
func runServe(args []string) error {
	var c serveConfig
	f := flag.NewFlagSet("serve", flag.ContinueOnError)
	f.StringVar(&c.state, "state", "", "directory for what another shim needs to adopt the containers")
	f.StringVar(&c.address, "address", "", "socket to listen on (on Windows a file that is to name a pipe, or a pipe)")
	f.IntVar(&c.listenFd, "listen-fd", 0, "descriptor of a socket that listens already, instead of an address")
	f.StringVar(&c.events, "events", os.Getenv("TTRPC_ADDRESS"), "socket that takes events, by containerd's ttrpc events service")
	f.StringVar(&c.keeper, "keeper", "", "unix socket of a daemon that keeps terminals, so that they outlive this shim")
	f.StringVar(&c.namespace, "namespace", "", "namespace of requests that name none")
	if err := f.Parse(args); err != nil {
		return err
	}
	if c.state == "" || (c.address == "") == (c.listenFd == 0) || f.NArg() > 0 {
		return errors.New("serve needs --state, and either --address or --listen-fd")
	}
	var err error
	if c.state, err = filepath.Abs(c.state); err != nil {
		return err
	}
	c.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := seal(); err != nil {
		c.log.Warn("containers start slower", "error", err)
	}
	if err := serve(c); err != nil {
		c.log.Error("shim ends", "error", err)
		return err
	}
	return nil
}
