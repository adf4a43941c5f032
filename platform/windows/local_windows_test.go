package windows_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Microsoft/hcsshim"
	"github.com/opencontainers/runtime-spec/specs-go"
	sys "golang.org/x/sys/windows"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/windows"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/testsuite"
)

// programs that this test binary is in containers, for which SLIPWAY_PROGRAM is set; see testsuite.FakeExecutor.
var programs = []string{"true", "false", "echo", "cat", "sleep", "sh"}

func TestMain(m *testing.M) {
	switch {
	case os.Getenv("SLIPWAY_PROGRAM") != "":
		os.Exit(program(os.Args[1:]))
	case os.Getenv("SLIPWAY_DIES") != "":
		die(os.Getenv("SLIPWAY_DIES"))
	}
	os.Exit(m.Run())
}

// needSimulator skips where the service is a real one, to which the made-up layers mean nothing, or none.
func needSimulator(t *testing.T) {
	t.Helper()
	if sys.NewLazySystemDLL("ntdll.dll").NewProc("wine_get_version").Find() != nil {
		t.Skip("needs the simulator of testsuite/hcssim under wine")
	}
}

// needNothing fails when a test leaves systems of its own behind.
func needNothing(t *testing.T, ids ...string) {
	t.Helper()
	list, err := hcsshim.GetContainers(hcsshim.ComputeSystemQuery{Owners: []string{"slipway"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		for _, id := range ids {
			if strings.HasPrefix(c.ID, id+"-") {
				t.Errorf("compute system %s is left, %s", c.ID, c.State)
			}
		}
	}
}

func program(args []string) int {
	script := args[len(args)-1]
	switch args[0] {
	case "show":
		fmt.Printf("%q %q", args[1:], os.Getenv("SLIPWAY_x"))
	case "false":
		return 1
	case "echo":
		fmt.Println(strings.Join(args[1:], " "))
	case "cat":
		if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
			return 1
		}
	case "sleep":
		time.Sleep(time.Hour) // until it is killed
	case "sh":
		if script == "read x; stty size" {
			bufio.NewScanner(os.Stdin).Scan()
			fmt.Println("no size")
		}
		if n, ok := strings.CutPrefix(script, "exit "); ok {
			status, _ := strconv.Atoi(n)
			return status
		}
		if word, ok := strings.CutSuffix(strings.TrimPrefix(script, "echo "), " >&2"); ok {
			fmt.Fprintln(os.Stderr, word)
		}
	}
	return 0
}

// process runs args by this test binary.
func process(t *testing.T, args ...string) *specs.Process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if len(args) > 0 && slices.Contains(programs, args[0]) {
		args = append([]string{self}, args...)
	}
	return &specs.Process{Args: args, Cwd: `C:\`, Env: []string{"SLIPWAY_PROGRAM=1"}}
}

// TestArguments: what a program gets is what the spec says.
func TestArguments(t *testing.T) {
	needSimulator(t)
	e, err := windows.New(windows.Config{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	args := []string{"", "a b", `c"d`, `e\`, `f g\\`, `\"`, "%PATH%", "ü"}
	p := process(t, "true")
	p.Args = append([]string{p.Args[0], "show"}, args...)
	p.Env = append(p.Env, "SLIPWAY_X=first", `slipway_x=second = "x"`)
	var out bytes.Buffer
	s := platformSpec(t, "arguments", &specs.Spec{Version: specs.Version, Process: p, Windows: &specs.Windows{}})
	s.Rootfs, s.IO = []storage.Mount{layers(t, s.ID)}, platform.IO{Stdout: &out}
	c, err := e.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Init().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Init().Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%q %q", args, `second = "x"`); out.String() != want {
		t.Errorf("the program got %s, want %s", out.String(), want)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
}

// layers makes an image's layer with a utility VM, and a scratch layer on it.
func layers(t *testing.T, id string) storage.Mount {
	t.Helper()
	dir := t.TempDir()
	base := filepath.Join(dir, "base")
	for _, sub := range []string{`Files`, `UtilityVM`} {
		if err := os.MkdirAll(filepath.Join(base, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	scratch := "scratch-" + strings.Map(func(r rune) rune {
		if r == '/' || r == '.' {
			return '_'
		}
		return r
	}, id)
	if err := hcsshim.CreateScratchLayer(hcsshim.DriverInfo{HomeDir: dir}, scratch, "", []string{base}); err != nil {
		t.Fatal(err)
	}
	parents, err := json.Marshal([]string{base})
	if err != nil {
		t.Fatal(err)
	}
	return storage.Mount{Type: "windows-layer", Source: filepath.Join(dir, scratch), Options: []string{"rw", "parentLayerPaths=" + string(parents)}}
}

// TestLocal runs the conformance suite over this machine's service, which under wine is the simulator of testsuite/hcssim: with process
// isolation, which is schema 2, and with Hyper-V's, which is schema 1.
func TestLocal(t *testing.T) {
	needSimulator(t)
	for _, hyperV := range []bool{false, true} {
		t.Run(fmt.Sprintf("hyperv=%v", hyperV), func(t *testing.T) {
			testsuite.TestExecutor(t, func(t *testing.T) testsuite.ExecutorFixture {
				root := t.TempDir()
				open := func(t *testing.T) *windows.Executor {
					e, err := windows.New(windows.Config{Root: root})
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { e.Close() })
					return e
				}
				e := open(t)
				return testsuite.ExecutorFixture{
					Executor: e, LateStart: true, NoSize: true, FixedLimits: hyperV, NoPause: !hyperV,
					Spec: func(t *testing.T, id string, args ...string) platform.Spec {
						spec := &specs.Spec{Version: specs.Version, Process: process(t, args...), Windows: &specs.Windows{}}
						if hyperV {
							spec.Windows.HyperV = &specs.WindowsHyperV{}
						}
						s := platformSpec(t, id, spec)
						s.Rootfs = []storage.Mount{layers(t, id)}
						return s
					},
					Process: func(args ...string) json.RawMessage {
						data, err := json.Marshal(process(t, args...))
						if err != nil {
							t.Fatal(err)
						}
						return data
					},
					Restart: func(t *testing.T) platform.Executor {
						e.Close()
						return open(t)
					},
				}
			})
		})
	}
}
