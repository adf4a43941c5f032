package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/eventlog"
	"golang.org/x/sys/windows/svc/mgr"
)

// serviceTimeout is how long the service may take to start or to stop.
const serviceTimeout = 90 * time.Second

// addSystem adds what slipwayd can besides on Windows: to be a service.
func addSystem(cmd *cobra.Command, f *flags) {
	cmd.Flags().StringVar(&f.service, "run-service", "", "run as the service of this name; the service control manager says it")
	_ = cmd.Flags().MarkHidden("run-service")
	var name string
	service := &cobra.Command{Use: "service", Short: "Install, start, stop or uninstall slipwayd as a Windows service"}
	service.PersistentFlags().StringVar(&name, "name", "slipwayd", "name of the service")
	add := func(use, short string, args cobra.PositionalArgs, do func(args []string) error) {
		service.AddCommand(&cobra.Command{Use: use, Short: short, Args: args, RunE: func(_ *cobra.Command, args []string) error { return do(args) }})
	}
	add("install [-- FLAG...]", "Install the service: it starts with Windows, with these flags of slipwayd", nil, func(args []string) error { return installService(name, args) })
	add("uninstall", "Stop the service and remove it; containers go on, and nothing of root and state is removed", cobra.NoArgs, func([]string) error {
		return withService(name, uninstallService)
	})
	add("start", "Start the service, and wait until the daemon is ready", cobra.NoArgs, func([]string) error {
		return withService(name, func(s *mgr.Service) error {
			if err := s.Start(); err != nil && !errors.Is(err, windows.ERROR_SERVICE_ALREADY_RUNNING) {
				return err
			}
			return awaitService(s, svc.Running)
		})
	})
	add("stop", "Stop the service, and wait until it has; containers go on", cobra.NoArgs, func([]string) error { return withService(name, stopService) })
	add("status", "Say whether the service is installed and runs", cobra.NoArgs, func([]string) error {
		return withService(name, func(s *mgr.Service) error {
			st, err := s.Query()
			if err == nil {
				_, err = fmt.Println(stateName(st.State))
			}
			return err
		})
	})
	cmd.AddCommand(service)
}

// installService records this program, wherever it is, as a service. Windows starts it again after a failure.
func installService(name string, args []string) (err error) {
	if err := daemonFlags(args); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	m, err := connectManager()
	if err != nil {
		return err
	}
	defer m.Disconnect()
	s, err := m.CreateService(name, self, mgr.Config{
		DisplayName: "Slipway container runtime", Description: "Pulls images and runs containers. Containers go on while it is stopped.",
		StartType: mgr.StartAutomatic, ErrorControl: mgr.ErrorNormal,
	}, append([]string{"--run-service", name}, args...)...)
	if err != nil {
		return fmt.Errorf("cannot install service %s: %w", name, err)
	}
	defer s.Close()
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Delete())
		}
	}()
	again := mgr.RecoveryAction{Type: mgr.ServiceRestart, Delay: 2 * time.Second}
	if err := s.SetRecoveryActions([]mgr.RecoveryAction{again, again, again}, uint32((time.Hour).Seconds())); err != nil {
		return fmt.Errorf("cannot have Windows start service %s again when it fails: %w", name, err)
	}
	if err := s.SetRecoveryActionsOnNonCrashFailures(true); err != nil && !errors.Is(err, windows.ERROR_INVALID_LEVEL) { // which wine does not know
		return fmt.Errorf("cannot have Windows start service %s again when it fails: %w", name, err)
	}
	if err := eventlog.InstallAsEventCreate(name, eventlog.Error|eventlog.Warning|eventlog.Info); err != nil {
		_ = eventlog.Remove(name) // another's of an earlier installation
		if err := eventlog.InstallAsEventCreate(name, eventlog.Error|eventlog.Warning|eventlog.Info); err != nil {
			return fmt.Errorf("cannot make %s a source of the event log: %w", name, err)
		}
	}
	return nil
}

func uninstallService(s *mgr.Service) error {
	if err := stopService(s); err != nil {
		return err
	}
	if err := s.Delete(); err != nil {
		return err
	}
	if err := eventlog.Remove(s.Name); err != nil && !errors.Is(err, windows.ERROR_FILE_NOT_FOUND) {
		return fmt.Errorf("cannot remove it as a source of the event log: %w", err)
	}
	return nil
}

// stopService is nil for one that does not run.
func stopService(s *mgr.Service) error {
	if _, err := s.Control(svc.Stop); errors.Is(err, windows.ERROR_SERVICE_NOT_ACTIVE) {
		return nil
	} else if err != nil {
		return err
	}
	return awaitService(s, svc.Stopped)
}

// awaitService waits for a state, or for the failure to get there.
func awaitService(s *mgr.Service, want svc.State) error {
	for deadline := time.Now().Add(serviceTimeout); ; time.Sleep(50 * time.Millisecond) {
		st, err := s.Query()
		switch {
		case err != nil:
			return err
		case st.State == want:
			return nil
		case st.State == svc.Stopped:
			return fmt.Errorf("it has stopped with exit code %d; the event log of applications, source %s, says why", max(st.Win32ExitCode, st.ServiceSpecificExitCode), s.Name)
		case time.Now().After(deadline):
			return fmt.Errorf("it is %s after %s", stateName(st.State), serviceTimeout)
		}
	}
}

// withService opens an installed service for what do does.
func withService(name string, do func(*mgr.Service) error) error {
	m, err := connectManager()
	if err != nil {
		return err
	}
	defer m.Disconnect()
	s, err := m.OpenService(name)
	if err != nil {
		return fmt.Errorf("cannot open service %s (is it installed?): %w", name, err)
	}
	defer s.Close()
	if err := do(s); err != nil {
		return fmt.Errorf("service %s: %w", name, err)
	}
	return nil
}

func connectManager() (*mgr.Mgr, error) {
	m, err := mgr.Connect()
	if err != nil {
		return nil, fmt.Errorf("cannot reach the service control manager, run as administrator: %w", err)
	}
	return m, nil
}

func stateName(s svc.State) string {
	names := map[svc.State]string{
		svc.Stopped: "stopped", svc.StartPending: "starting", svc.StopPending: "stopping", svc.Running: "running",
		svc.ContinuePending: "continuing", svc.PausePending: "pausing", svc.Paused: "paused",
	}
	return names[s]
}
