package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/client"
	"github.com/slipwayd/slipway/spec"
)

const sampleLog = "2026-01-02T03:04:05.000000001Z stdout F one\n" +
	"2026-01-02T03:04:06.000000001Z stdout P tw\n" +
	"2026-01-02T03:04:07.000000001Z stdout F o\n" +
	"2026-01-02T03:04:08.000000001Z stderr F oops\n"

func TestLogPrinter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte(sampleLog), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		tail             int
		stamps           bool
		stdout, stderror string
	}{
		"all":        {tail: -1, stdout: "one\ntwo\n", stderror: "oops\n"},
		"tail":       {tail: 2, stdout: "two\n", stderror: "oops\n"},
		"tail none":  {tail: 0},
		"timestamps": {tail: -1, stamps: true, stdout: "2026-01-02T03:04:05.000000001Z one\n2026-01-02T03:04:06.000000001Z two\n", stderror: "2026-01-02T03:04:08.000000001Z oops\n"},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			var out, errs bytes.Buffer
			p := logPrinter{out: &out, err: &errs, stamps: tc.stamps}
			if err := p.print(context.Background(), f, tc.tail, func() bool { return false }); err != nil {
				t.Fatal(err)
			}
			if out.String() != tc.stdout || errs.String() != tc.stderror {
				t.Errorf("got %q and %q, want %q and %q", out.String(), errs.String(), tc.stdout, tc.stderror)
			}
		})
	}
}

// What is written between the last read and the container's end is shown too.
func TestLogPrinterFollows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("2026-01-02T03:04:05Z stdout F one\n2026-01-02T03:04:06Z std"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	asked := 0
	var out bytes.Buffer
	p := logPrinter{out: &out, err: &out}
	err = p.print(context.Background(), f, -1, func() bool {
		asked++
		w, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		text := map[int]string{1: "out F two\n", 2: "2026-01-02T03:04:07Z stdout F three\n"}[asked]
		if _, err := w.WriteString(text); err != nil {
			t.Fatal(err)
		}
		return asked == 1
	})
	if err != nil || out.String() != "one\ntwo\nthree\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

func TestLines(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out, false)
	name := "layer-sha256:" + strings.Repeat("ab", 32)
	for _, u := range []client.Progress{
		{Event: "fetching image content", Name: "image"},
		{Event: "downloading", Name: name, Total: 1000, Parents: []string{"image"}},
		{Event: "downloading", Name: name, Offset: 500, Total: 1000, Parents: []string{"image"}},
		{Event: "complete", Name: "image"},
		{Event: "complete", Name: name, Parents: []string{"image"}},
		{Event: "saved", Name: "image"},
	} {
		p.update(u)
	}
	p.finish(nil)
	if want := "image: fetching image content\nlayer abababababab: downloading (1kB)\nlayer abababababab: complete\nimage: saved\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestArgv(t *testing.T) {
	img := client.ImageDetail{}
	img.Config.Config = ocispec.ImageConfig{Entrypoint: []string{"/init"}, Cmd: []string{"serve"}}
	for _, tc := range []struct {
		entrypoint *string
		args       []string
		want       string
	}{
		{nil, nil, "/init serve"},
		{nil, []string{"-v"}, "/init -v"},
		{new("sh"), []string{"-c", "x"}, "sh -c x"},
		{new("sh"), nil, "sh"},
		{new(""), []string{"ls"}, "ls"},
	} {
		r := runFlags{name: "x", networkFlags: networkFlags{network: "none"}}
		if tc.entrypoint != nil {
			r.entrypoint = *tc.entrypoint
		}
		opts, err := r.specOpts(img, tc.entrypoint != nil, tc.args)
		if err != nil {
			t.Fatal(err)
		}
		s, err := spec.New("linux", append([]spec.Opt{spec.Image(img.Config.Config)}, opts...)...)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(s.Process.Args, " "); got != tc.want {
			t.Errorf("entrypoint %v, args %v: got %q, want %q", tc.entrypoint, tc.args, got, tc.want)
		}
	}
}

// Every mistake is one clear line and exit code 125.
func TestMistakes(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "no.sock")
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no daemon":      {[]string{"ps"}, "is slipwayd running?"},
		"unknown flag":   {[]string{"ps", "--nope"}, "--nope"},
		"unknown format": {[]string{"ps", "--format", "xml"}, "neither json nor table"},
		"no image":       {[]string{"run"}, "at least 1 arg"},
		"no number":      {[]string{"run", "--cpus", "x", "y"}, `"--cpus" flag: invalid syntax; see slipway run --help`},
		"no command":     {[]string{"rn"}, "see slipway --help"},
		"bad signal":     {[]string{"kill", "-s", "NOPE", "x"}, "NOPE"},
		"bad network":    {[]string{"run", "--network", "mars", "x"}, "is slipwayd running?"},
		"both -d and -i": {[]string{"run", "-d", "-i", "x"}, "exclude each other"},
		"bad pull":       {[]string{"run", "--pull", "maybe", "x"}, "none of always, missing, never"},
		"no subcommand":  {[]string{"image", "nope"}, `unknown command "nope" for "slipway image"; see slipway image --help`},
		"no arguments":   {[]string{"images", "x"}, "see slipway images --help\n"},
		"bad format":     {[]string{"image", "convert", "--format", "zip", "a", "b"}, "neither estargz nor zstd:chunked"},
		"bad lazy":       {[]string{"run", "--lazy", "maybe", "x"}, "none of auto, always, never"},
		"bad id":         {[]string{"run", "--name", "a b", "x"}, `--name "a b" is not letters and digits`},
		"bad platform":   {[]string{"pull", "--platform", "a/b/c/d", "x"}, "--platform: "},
		"bad name":       {[]string{"pull", "UPPER/x:::"}, "UPPER"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			a := &app{in: strings.NewReader(""), out: &out, err: &errs}
			code := execute(context.Background(), append([]string{"--address", nowhere}, tc.args...), a)
			if code != exitDaemon || !strings.Contains(errs.String(), tc.want) {
				t.Errorf("exit code %d, %q; want %d and something of %q", code, errs.String(), exitDaemon, tc.want)
			}
			if n := strings.Count(errs.String(), "\n"); n > 1 {
				t.Errorf("%d lines for one mistake: %q", n, errs.String())
			}
		})
	}
}

func TestExplainStart(t *testing.T) {
	const (
		head = `cannot create the task of a: cannot create container "a": ` // of init
		exec = `cannot start process "0123" of container "a": `
		libc = "unable to start container process: "
		runc = "runc create: runc create failed: " + libc
	)
	bad, other := errdefs.ErrInvalidArgument, errors.New("invalid argument")
	for text, want := range map[string]struct {
		kind error
		code int
		text string
	}{
		head + libc + `error during container init: exec: "no": executable file not found in $PATH`: {bad, 127, `cannot run "no" in a: executable file not found in $PATH`},
		head + libc + `exec: "/no": stat /no: no such file or directory`:                            {bad, 127, `cannot run "/no" in a: no such file or directory`},
		head + libc + `exec: "/etc/passwd": permission denied`:                                      {bad, 126, `cannot run "/etc/passwd" in a: permission denied`},
		head + libc + `error during container init: mkdir /etc/passwd: not a directory`:             {other, 125, "cannot start a: mkdir /etc/passwd: not a directory: invalid argument"},
		head + libc + "error during container init: sethostname":                                    {bad, 125, "cannot start a: sethostname: invalid argument"},
		head + `exec: "no": executable file not found in $PATH`:                                     {bad, 127, `cannot run "no" in a: executable file not found in $PATH`},
		head + `cannot exec "/a: b": no such file or directory`:                                     {bad, 127, `cannot run "/a: b" in a: no such file or directory`},
		exec + `cannot exec "/etc": is a directory: permission denied`:                              {bad, 126, `cannot run "/etc" in a: is a directory: permission denied`},
		exec + `cannot exec /bin/x: permission denied`:                                              {bad, 126, `cannot run /bin/x in a: permission denied`},
		head + runc + `exec: "no": executable file not found in $PATH (exit status 1)`:              {bad, 127, `cannot run "no" in a: executable file not found in $PATH`},
		"lease expired": {errdefs.ErrUnavailable, 125, "lease expired"},
	} {
		var errs bytes.Buffer
		a := &app{err: &errs}
		if code := a.report(t.Context(), explainStart(fmt.Errorf("%s: %w", text, want.kind), "a")); code != want.code || errs.String() != "slipway: "+want.text+"\n" {
			t.Errorf("%s:\ngot %d, %q", text, code, errs.String())
		}
	}
	if err := explainStart(nil, "a"); err != nil {
		t.Error(err)
	}
}

// Each of several errors is a line, without the word that is for programs.
func TestReport(t *testing.T) {
	var errs bytes.Buffer
	a := &app{err: &errs}
	err := errors.Join(fmt.Errorf("a: it is running: %w", errdefs.ErrFailedPrecondition), fmt.Errorf("cannot find b: %w", errdefs.ErrNotFound))
	if code := a.report(t.Context(), err); code != exitDaemon || errs.String() != "slipway: a: it is running\nslipway: cannot find b: not found\n" {
		t.Errorf("got %d, %q", code, errs.String())
	}
	if code := a.report(t.Context(), errors.Join(nil, exitCode(3))); code != 3 {
		t.Errorf("the container's exit code became %d", code)
	}
}

// Names are worked on side by side: each of these waits for the others.
func TestEach(t *testing.T) {
	names := []string{"c", "a", "b"}
	var all sync.WaitGroup
	all.Add(len(names))
	var out bytes.Buffer
	err := (&app{out: &out}).each(names, func(name string) error {
		all.Done()
		all.Wait()
		if name == "a" {
			return errors.New("boom")
		}
		return nil
	})
	if out.String() != "c\nb\n" || err == nil || err.Error() != "a: boom" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

func TestExplainNoImage(t *testing.T) {
	err := explainNoImage("app", fmt.Errorf("cannot find it: %w", errdefs.ErrNotFound))
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "slipway pull app") {
		t.Errorf("%v: want a kind, and what to do", err)
	}
	for _, other := range []error{nil, errdefs.ErrUnavailable} {
		if err := explainNoImage("app", other); err != other {
			t.Errorf("%v became %v", other, err)
		}
	}
}
