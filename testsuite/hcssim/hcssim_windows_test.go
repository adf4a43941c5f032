package hcssim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/Microsoft/hcsshim"

	"github.com/slipwayd/slipway/testsuite/hcssim/control"
	"github.com/slipwayd/slipway/testsuite/hcssim/faults"
	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
)

var sim *control.Private

func TestMain(m *testing.M) {
	if os.Getenv(helper) != "" {
		help()
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "hcssim")
	if err == nil {
		sim, err = control.StartPrivate(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	defer sim.Stop()
	return m.Run()
}

func config(id string) *hcsshim.ContainerConfig {
	return &hcsshim.ContainerConfig{
		SystemType: "Container", Name: id, Owner: "hcssim", VolumePath: `\\?\Volume{6ef0ac40-2b0e-4d3c-8b1e-000000000001}`,
		Layers: []hcsshim.Layer{{ID: "6ef0ac40-2b0e-4d3c-8b1e-000000000002", Path: `C:\layers\base`}},
	}
}

func start(t testing.TB, c *hcsshim.ContainerConfig) hcsshim.Container {
	t.Helper()
	s, err := hcsshim.CreateContainer(c.Name, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Terminate() // most have ended
		_ = s.Close()
	})
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	return s
}

// output runs a program to its end.
func output(t testing.TB, s hcsshim.Container, line, input string) (string, int) {
	t.Helper()
	p, err := s.CreateProcess(&hcsshim.ProcessConfig{CommandLine: line, CreateStdInPipe: true, CreateStdOutPipe: true, CreateStdErrPipe: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	in, out, _, err := p.Stdio()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, input); err != nil {
		t.Fatal(err)
	}
	in.Close()
	b, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	code, err := p.ExitCode()
	if err != nil {
		t.Fatal(err)
	}
	return string(b), code
}

// sleeper is a program that waits for its input to end.
func sleeper(t testing.TB, s hcsshim.Container) hcsshim.Process {
	t.Helper()
	p, err := s.CreateProcess(&hcsshim.ProcessConfig{CommandLine: `cmd /c "set /p X="`, CreateStdInPipe: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func TestLife(t *testing.T) {
	s := start(t, config("life"))
	if out, code := output(t, s, "cmd /c echo hi", ""); out != "hi\r\n" || code != 0 {
		t.Errorf("%q, exit %d", out, code)
	}
	if out, code := output(t, s, `cmd /c "set /p X= & exit 7"`, "line\r\n"); code != 7 {
		t.Errorf("%q, exit %d", out, code)
	}
	p := sleeper(t, s)
	list, err := s.ProcessList()
	if err != nil || len(list) != 1 || int(list[0].ProcessId) != p.Pid() || list[0].ImageName != "cmd.exe" {
		t.Errorf("processes %+v, %v", list, err)
	}
	stats, err := s.Statistics()
	if err != nil || stats.Memory.UsageCommitBytes == 0 || stats.Timestamp.IsZero() {
		t.Errorf("statistics %+v, %v", stats, err)
	}
	if err := p.ResizeConsole(80, 25); err == nil {
		t.Error("a process without a console is resized")
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	if code, err := p.ExitCode(); code != 1067 {
		t.Errorf("exit of a killed one: %d, %v", code, err)
	}
	all, err := hcsshim.GetContainers(hcsshim.ComputeSystemQuery{Owners: []string{"hcssim"}})
	if err != nil || len(all) != 1 || all[0].ID != "life" || all[0].State != "Running" {
		t.Errorf("containers %+v, %v", all, err)
	}
	if err := s.Pause(); err == nil {
		t.Error("a container with process isolation is paused")
	}
	if err := s.Terminate(); err != nil && !hcsshim.IsPending(err) {
		t.Fatal(err)
	}
	if err := s.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := hcsshim.OpenContainer("life"); !hcsshim.IsNotExist(err) {
		t.Errorf("after the end: %v", err)
	}
}

func TestHyperV(t *testing.T) {
	c := config("vm")
	c.VolumePath, c.HvPartition, c.LayerFolderPath, c.HvRuntime = "", true, `C:\layers\scratch`, &hcsshim.HvRuntime{ImagePath: `C:\layers\base\UtilityVM`}
	s := start(t, c)
	p := sleeper(t, s)
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateProcess(&hcsshim.ProcessConfig{CommandLine: "cmd /c echo hi"}); err == nil {
		t.Error("a process starts in a paused system")
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := s.Shutdown(); err != nil && !hcsshim.IsPending(err) {
		t.Fatal(err)
	}
	if err := errors.Join(s.Wait(), p.Wait()); err != nil {
		t.Fatal(err)
	}
}

func TestBadDocuments(t *testing.T) {
	c := config("bad")
	c.ProcessorCount, c.ProcessorWeight = 1, 1
	_, err := hcsshim.CreateContainer("bad", c)
	if err == nil || !strings.Contains(err.Error(), "exclude each other") {
		t.Errorf("conflicting limits: %v", err)
	}
	s := start(t, config("good"))
	if _, err := s.CreateProcess(&hcsshim.ProcessConfig{}); err == nil || !strings.Contains(err.Error(), "CommandLine") {
		t.Errorf("a process without a command: %v", err)
	}
	if _, err := s.CreateProcess(&hcsshim.ProcessConfig{CommandLine: "no-such-program"}); err == nil || !strings.Contains(err.Error(), "CreateProcess failed") {
		t.Errorf("a program that isn't there: %v", err)
	}
	if _, err := hcsshim.CreateContainer("good", config("good")); err == nil {
		t.Error("a second container of that name")
	}
}

func TestManyAtOnce(t *testing.T) {
	var group sync.WaitGroup
	for i := range 48 {
		group.Go(func() {
			c := config(fmt.Sprint("many", i))
			s, err := hcsshim.CreateContainer(c.Name, c)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if err := s.Start(); err != nil {
				t.Error(err)
				return
			}
			p, err := s.CreateProcess(&hcsshim.ProcessConfig{CommandLine: fmt.Sprint("cmd /c echo ", i), CreateStdOutPipe: true})
			if err != nil {
				t.Error(err)
				return
			}
			_, out, _, err := p.Stdio()
			if err != nil {
				t.Error(err)
				return
			}
			if b, err := io.ReadAll(out); err != nil || strings.TrimSpace(string(b)) != fmt.Sprint(i) {
				t.Errorf("%d says %q, %v", i, b, err)
			}
			if err := errors.Join(p.Wait(), p.Close()); err != nil {
				t.Error(err)
			}
			if err := s.Terminate(); err != nil && !hcsshim.IsPending(err) {
				t.Error(err)
			}
			if err := s.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

func TestFaults(t *testing.T) {
	defer sim.Clear()
	add := func(r faults.Rule) {
		t.Helper()
		if err := sim.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	add(faults.Rule{Name: "denied", Call: "HcsCreateComputeSystem", Match: "denied", Fail: hresult.AccessDenied})
	if _, err := hcsshim.CreateContainer("denied", config("denied")); err == nil || !strings.Contains(err.Error(), "Access") {
		t.Errorf("the failure asked for: %v", err)
	}
	if n, err := sim.Hits("denied"); n != 1 || err != nil {
		t.Errorf("%d hits, %v", n, err)
	}
	s := start(t, config("stalled"))
	add(faults.Rule{Name: "slow", Call: "HcsCreateProcess", Stall: true})
	done := make(chan error)
	go func() {
		p, err := s.CreateProcess(&hcsshim.ProcessConfig{CommandLine: "cmd /c echo hi"})
		if err == nil {
			err = p.Close()
		}
		done <- err
	}()
	for n := 0; n == 0; {
		var err error
		if n, err = sim.Hits("slow"); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-done:
		t.Fatalf("a stalled call came back: %v", err)
	default:
	}
	if err := sim.Release("slow"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The service dies and comes back: those that waited hear of it, containers and processes are found again.
func TestServiceDies(t *testing.T) {
	s := start(t, config("survivor"))
	p := sleeper(t, s)
	if err := sim.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(); err == nil {
		t.Error("the end of the service is the end of a container")
	}
	again, err := hcsshim.OpenContainer("survivor")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	q, err := again.OpenProcess(p.Pid())
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if out, _ := output(t, again, "cmd /c echo again", ""); out != "again\r\n" {
		t.Errorf("%q", out)
	}
	if err := q.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := q.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := again.Terminate(); err != nil && !hcsshim.IsPending(err) {
		t.Fatal(err)
	}
	if err := again.Wait(); err != nil {
		t.Fatal(err)
	}
}
