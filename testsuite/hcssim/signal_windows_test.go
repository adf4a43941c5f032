package hcssim

import (
	"bufio"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"unsafe"

	"github.com/Microsoft/hcsshim"
	"golang.org/x/sys/windows"
)

// helper makes this test's program a container's program: it says when it is ready, and what signal ends it.
const helper = "HCSSIM_HELPER"

func help() {
	got := make(chan os.Signal, 1)
	signal.Notify(got, os.Interrupt, syscall.SIGTERM)
	fmt.Println("ready")
	fmt.Println(<-got)
	os.Exit(9)
}

// hcsshim's public API has no signals, so that this is the call itself, on handles of its own.
var (
	vmcompute  = windows.NewLazySystemDLL("vmcompute.dll")
	openSystem = vmcompute.NewProc("HcsOpenComputeSystem")
	openPid    = vmcompute.NewProc("HcsOpenProcess")
	sendSignal = vmcompute.NewProc("HcsSignalProcess")
)

func send(t *testing.T, system string, pid int, options string) uint32 {
	t.Helper()
	text := func(s string) uintptr {
		p, err := windows.UTF16PtrFromString(s)
		must(t, err)
		return uintptr(unsafe.Pointer(p))
	}
	var h, p uintptr
	if hr, _, _ := openSystem.Call(text(system), uintptr(unsafe.Pointer(&h)), 0); int32(hr) < 0 {
		t.Fatalf("cannot open %s: 0x%x", system, uint32(hr))
	}
	if hr, _, _ := openPid.Call(h, uintptr(pid), uintptr(unsafe.Pointer(&p)), 0); int32(hr) < 0 {
		t.Fatalf("cannot open process %d: 0x%x", pid, uint32(hr))
	}
	hr, _, _ := sendSignal.Call(p, text(options), 0)
	return uint32(hr)
}

// A process that handles a signal says so; one that doesn't is ended by it.
func TestSignals(t *testing.T) {
	s := start(t, config("signals"))
	self, err := os.Executable()
	must(t, err)
	for event, says := range map[string]string{"CtrlC": "interrupt", "CtrlBreak": "interrupt", "CtrlShutdown": "terminated"} {
		p, err := s.CreateProcess(&hcsshim.ProcessConfig{CommandLine: `"` + self + `"`, Environment: map[string]string{helper: "1"}, CreateStdOutPipe: true})
		must(t, err)
		_, out, _, err := p.Stdio()
		must(t, err)
		lines := bufio.NewScanner(out)
		if !lines.Scan() || lines.Text() != "ready" {
			t.Fatalf("the program says %q", lines.Text())
		}
		if hr := send(t, "signals", p.Pid(), `{"Signal":"`+event+`"}`); hr != 0 {
			t.Fatalf("%s: 0x%x", event, hr)
		}
		if !lines.Scan() || lines.Text() != says {
			t.Errorf("%s is %q to the program", event, lines.Text())
		}
		must(t, p.Wait())
		if code, _ := p.ExitCode(); code != 9 && event != "CtrlShutdown" { // Windows ends a process after a shutdown's handlers
			t.Errorf("%s: exit %d", event, code)
		}
		must(t, p.Close())
	}
	p := sleeper(t, s)
	if hr := send(t, "signals", p.Pid(), `{"Signal":"Hup"}`); hr != 0x80070057 {
		t.Errorf("a signal that Windows doesn't have: 0x%x", hr)
	}
}
