package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
)

// Exit codes that are not the container's, as docker has them.
const (
	exitDaemon    = 125 // the failure is Slipway's
	exitNoExec    = 126 // the program is there and cannot be executed
	exitNoProgram = 127 // the program is not there
)

// exitCode is an error that only sets the exit code: the process in the container ended with it.
type exitCode uint32

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", uint32(e)) }

// notStarted is a program that did not start.
type notStarted struct {
	code int
	text string
	err  error
}

func (e *notStarted) Error() string { return e.text }
func (e *notStarted) Unwrap() error { return e.err }

// hands are those that the news of a failed start goes through: the client's, the executor's, libcontainer's or runc's.
var hands = regexp.MustCompile(`^(?:cannot create the task of \S+: |cannot create container "[^"]*": |cannot start process "[^"]*" of container "[^"]*": |` +
	`.*unable to start container process: |error during container init: )+`)

// ofProgram is what the executor and the runtimes say of a program that the kernel did not take.
var ofProgram = regexp.MustCompile(`^(?:exec:|cannot exec) ("(?:[^"\\]|\\.)*"|[^:]+): (?:stat [^:]*: )?(.*?)(?: \(exit status \d+\))?$`)

// explainStart leaves out of an error which hands the news went through and finds docker's exit code.
func explainStart(err error, id string) error {
	if err == nil {
		return nil
	}
	reason := hands.ReplaceAllString(err.Error(), "")
	if len(reason) == len(err.Error()) {
		return err
	}
	m := ofProgram.FindStringSubmatch(sentence(err, reason))
	if m == nil {
		if !strings.Contains(err.Error(), "container init: ") { // there "invalid argument" at the end may be the kernel's reason
			reason = sentence(err, reason)
		}
		return &notStarted{code: exitDaemon, text: fmt.Sprintf("cannot start %s: %s", id, reason), err: err}
	}
	program, why := m[1], m[2]
	e := &notStarted{code: exitNoExec, text: fmt.Sprintf("cannot run %s in %s: %s", program, id, why), err: err}
	if strings.Contains(why, "not found in $PATH") || strings.HasSuffix(why, "no such file or directory") {
		e.code = exitNoProgram
	}
	return e
}

// kinds are words that errors of the API end with and that are for programs. Others, such as "not found", say something to
// a person too.
var kinds = []error{
	errdefs.ErrInvalidArgument, errdefs.ErrFailedPrecondition, errdefs.ErrUnavailable, errdefs.ErrUnauthenticated,
	errdefs.ErrOutOfRange, errdefs.ErrDataLoss, errdefs.ErrResourceExhausted, errdefs.ErrInternal, errdefs.ErrUnknown,
}

// sentence is a line of err's text without the kind at its end. An error that has not that kind ends with a reason in the
// same words, such as EINVAL's.
func sentence(err error, line string) string {
	for _, k := range kinds {
		if short, ok := strings.CutSuffix(line, ": "+k.Error()); ok && errors.Is(err, k) {
			return short
		}
	}
	return line
}

// report prints an error, each of several on a line of its own, and answers the exit code.
func (a *app) report(ctx context.Context, err error) int {
	var code exitCode
	var start *notStarted
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case ctx.Err() != nil && (errors.Is(err, context.Canceled) || errdefs.IsCanceled(err)):
		fmt.Fprintln(a.err, "slipway: interrupted")
		return 130
	case errdefs.IsUnavailable(err) && strings.Contains(err.Error(), "connection error:"): // gRPC's, not a registry's
		fmt.Fprintf(a.err, "slipway: cannot reach the daemon at %s: %s\n", a.address, unreachable(err))
		return exitDaemon
	}
	errors.As(err, &start)
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if start == nil || line != start.text {
			line = sentence(err, line)
		}
		fmt.Fprintln(a.err, "slipway:", line)
	}
	if start != nil {
		return start.code
	}
	return exitDaemon
}

// explainNoImage says what to do about an image that is not here.
func explainNoImage(name string, err error) error {
	if !errdefs.IsNotFound(err) {
		return err
	}
	return fmt.Errorf("no image is named %q here; \"slipway images\" lists those that are, \"slipway pull %s\" brings it (%w)", name, name, err)
}

// unreachable is why nobody answers and what to do. The reason comes as gRPC's text: it has no kind.
func unreachable(err error) string {
	text := err.Error()
	for _, e := range []struct {
		err  error
		hint string
	}{
		{syscall.EACCES, "only root may talk to it; try sudo"},
		{fs.ErrPermission, "only root may talk to it; try sudo"},
		{syscall.ENOENT, "is slipwayd running? Start it, or name its socket with --address or SLIPWAY_ADDRESS"},
		{syscall.ECONNREFUSED, "is slipwayd running? Start it, or name its socket with --address or SLIPWAY_ADDRESS"},
	} {
		if strings.Contains(text, e.err.Error()) {
			return e.err.Error() + "; " + e.hint
		}
	}
	return text + "; is slipwayd running? Start it, or name its socket with --address or SLIPWAY_ADDRESS"
}
