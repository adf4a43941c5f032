package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/sys/windows/svc"
)

// supervised runs the daemon below a console, or below the service control manager when service names what it was started as.
func supervised(ctx context.Context, service string, load func() (config, error)) error {
	if service == "" {
		c, err := load()
		if err != nil {
			return err
		}
		return run(ctx, c, supervisor{log: newLog, notify: func(*slog.Logger, string) {}}, load)
	}
	events, err := openEventLog(service)
	if err != nil {
		return err
	}
	defer events.close()
	h := &handler{daemon: func(ctx context.Context, notify func(*slog.Logger, string)) error {
		c, err := load()
		if err != nil {
			return err
		}
		return run(ctx, c, supervisor{log: events.logger, notify: notify}, load)
	}, events: events}
	if err := svc.Run(service, h); err != nil {
		return fmt.Errorf("cannot talk to the service control manager; use `slipwayd service start`, which starts this: %w", err)
	}
	return nil
}

// handler is the daemon as the service control manager sees it: starting until it is ready, and one that ended by itself has failed, so that
// it is started again.
type handler struct {
	daemon func(ctx context.Context, notify func(*slog.Logger, string)) error
	events *eventLog
}

// failedExit is the service-specific exit code of a daemon that could not go on; the event log says why.
const failedExit = 1

// hint is how long the service control manager should take starting or stopping for work that goes on.
const hint = 60 * time.Second

// Execute implements svc.Handler.
func (h *handler) Execute(_ []string, requests <-chan svc.ChangeRequest, status chan<- svc.Status) (specific bool, code uint32) {
	status <- svc.Status{State: svc.StartPending, WaitHint: uint32(hint.Milliseconds())}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ready, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		ended <- h.daemon(ctx, func(_ *slog.Logger, state string) {
			if state == "READY=1" {
				ready <- struct{}{}
			}
		})
	}()
	accepts := svc.AcceptStop | svc.AcceptShutdown
	for {
		select {
		case <-ready:
			status <- svc.Status{State: svc.Running, Accepts: accepts}
		case r := <-requests:
			switch r.Cmd {
			case svc.Interrogate:
				status <- r.CurrentStatus
			case svc.Stop, svc.Shutdown:
				status <- svc.Status{State: svc.StopPending, WaitHint: uint32(hint.Milliseconds())}
				stop()
			}
		case err := <-ended:
			if err != nil {
				h.events.tell(slog.LevelError, err.Error())
				return true, failedExit
			}
			return false, 0
		}
	}
}

// daemonFlags are what a service passes on: they must be flags of the daemon.
func daemonFlags(args []string) error {
	cmd := command()
	if err := cmd.ParseFlags(args); err != nil {
		return err
	}
	if rest := cmd.Flags().Args(); len(rest) > 0 {
		return errors.New("these are no flags of slipwayd: " + strings.Join(rest, " "))
	}
	return nil
}
