// Command hcssimctl tells a running hcssimd what to fail, stall or tell. It runs on Linux as well as under wine.
package main

import (
	"flag"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"

	"github.com/slipwayd/slipway/testsuite/hcssim/control"
	"github.com/slipwayd/slipway/testsuite/hcssim/faults"
	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
	"github.com/slipwayd/slipway/testsuite/hcssim/schema"
)

const usage = `hcssimctl [-addr FILE] VERB ...
  fail [-name N] [-match TEXT] [-skip N] [-times N] [-after] CALL HRESULT   answer calls with a failure
  stall [-name N] [-match TEXT] [-skip N] [-times N] CALL                   let calls wait for release
  die [-match TEXT] [-skip N] [-after] CALL                                 end the simulator at a call
  release [NAME]   let stalled calls go on      clear   remove all rules      hits NAME   how often rules acted
  calls            how often each function was called                        exit        end the simulator now
  check [-process] FILE...   what the service would say of a system's or a process's document; needs no simulator
`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "hcssimctl:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	top := flag.NewFlagSet("hcssimctl", flag.ContinueOnError)
	top.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	addr := top.String("addr", addressFile(), "the file in which hcssimd says where it is")
	if err := top.Parse(args); err != nil {
		return err
	}
	if top.NArg() == 0 {
		top.Usage()
		return fmt.Errorf("no verb")
	}
	if top.Arg(0) == "check" {
		return check(top.Args()[1:])
	}
	c, err := control.Dial(*addr)
	if err != nil {
		return err
	}
	defer c.Close()
	return obey(c, top.Arg(0), top.Args()[1:])
}

// addressFile is where hcssimd's address is: as wine's programs see it, or in the prefix that ci/wine uses.
func addressFile() string {
	if os.PathSeparator == '\\' {
		return control.AddressFile
	}
	prefix := os.Getenv("SLIPWAY_WINEPREFIX")
	if prefix == "" {
		prefix = "/var/tmp/slipway-wine"
	}
	return prefix + "/drive_c/hcssim/addr"
}

func obey(c *control.Client, verb string, args []string) error {
	switch verb {
	case "fail", "stall", "die":
		r, err := rule(verb, args)
		if err != nil {
			return err
		}
		return c.Add(r)
	case "release":
		return c.Release(strings.Join(args, " "))
	case "clear":
		return c.Clear()
	case "exit":
		return c.Exit()
	case "hits":
		n, err := c.Hits(strings.Join(args, " "))
		fmt.Println(n)
		return err
	case "calls":
		calls, err := c.Calls()
		names := make([]string, 0, len(calls))
		for name := range calls {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			fmt.Println(name, calls[name])
		}
		return err
	}
	return fmt.Errorf("%q is no verb\n%s", verb, usage)
}

// check reads documents as the service does, and fails with what it says of the first that it would not take.
func check(args []string) error {
	f := flag.NewFlagSet("check", flag.ContinueOnError)
	process := f.Bool("process", false, "ProcessParameters, and not a system")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() == 0 {
		return fmt.Errorf("check takes files\n%s", usage)
	}
	for _, name := range f.Args() {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if *process {
			_, err = schema.ParseProcess(string(b))
		} else {
			_, err = schema.Parse(string(b))
		}
		if err != nil {
			return fmt.Errorf("%s: 0x%08x: %w", name, uint32(hresult.Of(err)), err)
		}
	}
	return nil
}

func rule(verb string, args []string) (faults.Rule, error) {
	r := faults.Rule{Stall: verb == "stall", Die: verb == "die"}
	f := flag.NewFlagSet(verb, flag.ContinueOnError)
	f.StringVar(&r.Name, "name", "", "to release it and to ask for its hits")
	f.StringVar(&r.Match, "match", "", "something that an argument contains")
	f.IntVar(&r.Skip, "skip", 0, "calls to let pass first")
	f.IntVar(&r.Times, "times", 1, "calls to act on; -1 for all")
	f.BoolVar(&r.After, "after", false, "do what the call does, then act")
	if err := f.Parse(args); err != nil {
		return r, err
	}
	want := 1
	if verb == "fail" {
		want = 2
	}
	if f.NArg() != want {
		return r, fmt.Errorf("%s takes %d arguments\n%s", verb, want, usage)
	}
	r.Call = f.Arg(0)
	if verb == "fail" {
		n, err := strconv.ParseUint(f.Arg(1), 0, 32)
		if err != nil {
			return r, fmt.Errorf("%q is no HRESULT: write it as 0x80070005", f.Arg(1))
		}
		r.Fail = hresult.Code(n)
	}
	return r, nil
}
