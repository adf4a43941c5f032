// Command slipway-fuse serves the files of lazily pulled layers. "slipway-fuse keeper" mounts one FUSE file system, holds its
// descriptors and runs "slipway-fuse serve", again and again should that end; slipwayd starts the keeper and does not take it
// along when it ends. "slipway-fuse status" shows what is attached.
//
// What a crash leaves: of the server, readers that wait for the next one; of the keeper, a server that the next keeper takes over;
// of both, a dead mount, which the next keeper replaces. An upgrade is a new binary and the end of the server's process.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// version is set by the linker.
var version = "dev"

// options are the flags of keeper and serve.
type options struct {
	mount, state, cache string
	noPassthrough       bool
	quota, idle         int64
	deadline            time.Duration
}

func main() {
	code, err := run(os.Args[1:], os.Stdout)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "slipway-fuse: %v\n", err)
	}
	os.Exit(code)
}

// run answers the exit code.
func run(args []string, stdout io.Writer) (int, error) {
	if len(args) == 0 {
		return 2, errors.New("say keeper, serve, status or version")
	}
	switch args[0] {
	case "keeper", "serve":
		o, err := parse(args[0], args[1:])
		if err != nil {
			return 2, err
		}
		if args[0] == "keeper" {
			return exitCode(keep(o))
		}
		return exitCode(serve(o))
	case "status":
		f := flag.NewFlagSet("status", flag.ContinueOnError)
		state := f.String("state", "", "state directory of the keeper")
		if err := f.Parse(args[1:]); err != nil {
			return 2, err
		}
		return exitCode(status(*state, stdout))
	case "version":
		_, err := fmt.Fprintf(stdout, "slipway-fuse %s\n", version)
		return exitCode(err)
	}
	return 2, fmt.Errorf("cannot do %q: say keeper, serve, status or version", args[0])
}

func parse(name string, args []string) (o options, err error) {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.StringVar(&o.mount, "mount", "", "directory to mount the layers on")
	f.StringVar(&o.state, "state", "", "directory for what the next keeper or server needs")
	f.StringVar(&o.cache, "cache", "", "directory for the bytes of layers")
	f.BoolVar(&o.noPassthrough, "no-passthrough", false, "read complete files through the server too; overlays may then be stacked higher above the mount")
	f.Int64Var(&o.quota, "quota", 0, "bytes that the cache may take, and as many again what is fetched of layers that have not arrived; 0 for as many as the disk has room for")
	f.Int64Var(&o.idle, "idle", 0, "bytes of the cache that may stay when no layer needs them; 0 for as many as the quota leaves")
	f.DurationVar(&o.deadline, "deadline", 5*time.Minute, "how long a read waits for a registry that does not answer")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if o.mount == "" || o.state == "" || o.cache == "" || f.NArg() > 0 {
		return o, fmt.Errorf("%s needs --mount, --state and --cache, and nothing else", name)
	}
	for _, p := range []*string{&o.mount, &o.state, &o.cache} {
		if *p, err = filepath.Abs(*p); err != nil {
			return o, err
		}
	}
	return o, nil
}

// args are the flags again, for the server's command line.
func (o options) args() []string {
	args := []string{"--mount", o.mount, "--state", o.state, "--cache", o.cache,
		"--quota", strconv.FormatInt(o.quota, 10), "--idle", strconv.FormatInt(o.idle, 10), "--deadline", o.deadline.String()}
	if o.noPassthrough {
		args = append(args, "--no-passthrough")
	}
	return args
}
