package windows_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/windows"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/testsuite/hcssim/control"
	"github.com/slipwayd/slipway/testsuite/hcssim/faults"
	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
)

func localSpec(t *testing.T, id string, args ...string) platform.Spec {
	t.Helper()
	spec := &specs.Spec{Version: specs.Version, Process: process(t, args...), Windows: &specs.Windows{CredentialSpec: `{"CmsPlugins":["ActiveDirectory"]}`}}
	s := platformSpec(t, id, spec)
	s.Rootfs = []storage.Mount{layers(t, id)}
	return s
}

// TestFaults lets each call of the service fail, and looks what is left. The next call is meant, whoever's: nobody else must use
// the simulator meanwhile.
func TestFaults(t *testing.T) {
	needSimulator(t)
	sim, err := control.Dial(control.AddressFile)
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	for _, call := range []string{"ActivateLayer", "PrepareLayer", "GetLayerMountPath", "NameToGuid", "HcsModifyServiceSettings", "HcsGetServiceProperties", "HcsCreateComputeSystem", "HcsOpenComputeSystem", "HcsRegisterComputeSystemCallback", "HcsStartComputeSystem", "HcsCreateProcess"} {
		t.Run(call, func(t *testing.T) {
			root := t.TempDir()
			e, err := windows.New(windows.Config{Root: root})
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			s := localSpec(t, "faults-"+call, "sleep", "1")
			defer sim.Clear()
			if err := sim.Add(faults.Rule{Call: call, Fail: hresult.AccessDenied}); err != nil {
				t.Fatal(err)
			}
			c, err := e.Create(t.Context(), s)
			if err == nil {
				err = c.Init().Start(t.Context())
				if deleted := c.Delete(t.Context()); deleted != nil {
					t.Errorf("Delete: %v", deleted)
				}
			}
			want := error(errdefs.ErrPermissionDenied)
			if call == "HcsCreateProcess" {
				want = errdefs.ErrInvalidArgument // it is the program that cannot be read
			}
			if !errors.Is(err, want) {
				t.Errorf("error %v, want %v", err, want)
			}
			needNothing(t, s.ID)
			if files, _ := filepath.Glob(filepath.Join(root, "*")); len(files) > 0 {
				t.Errorf("left: %q", files)
			}
			if c, err = e.Create(t.Context(), s); err != nil { // the layer is as good as before
				t.Fatalf("Create after the fault: %v", err)
			}
			if err := c.Delete(t.Context()); err != nil {
				t.Errorf("Delete: %v", err)
			}
		})
	}
}

// die creates and starts the container of a file and a process in it, and dies without a word to anybody.
func die(file string) {
	if err := beginAndLeave(context.Background(), file); err != nil {
		_, _ = os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
	os.Exit(3)
}

func beginAndLeave(ctx context.Context, file string) error {
	var s platform.Spec
	var spec specs.Spec
	data, err := os.ReadFile(file)
	if err := errors.Join(err, json.Unmarshal(data, &s), json.Unmarshal(s.OCI, &spec)); err != nil {
		return err
	}
	e, err := windows.New(windows.Config{Root: filepath.Dir(file)})
	if err != nil {
		return err
	}
	input, _ := io.Pipe()
	s.IO = platform.IO{Stdin: input, Stdout: os.Stderr}
	c, err := e.Create(ctx, s)
	if err != nil {
		return err
	}
	if err := c.Init().Start(ctx); err != nil {
		return err
	}
	oci, err := json.Marshal(spec.Process)
	if err != nil {
		return err
	}
	p, err := c.Exec(ctx, platform.ProcessSpec{ID: "e", OCI: oci, IO: s.IO})
	if err != nil {
		return err
	}
	return p.Start(ctx)
}

// TestKilled adopts the containers of an executor whose process died, and has their pipes.
func TestKilled(t *testing.T) {
	needSimulator(t)
	root := t.TempDir()
	s := localSpec(t, "killed", "cat")
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "spec.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "SLIPWAY_DIES="+file)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 3 {
		t.Fatalf("%v: %s", err, out)
	}
	e, err := windows.New(windows.Config{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	c, err := e.Adopt(t.Context(), s.ID)
	if err != nil {
		t.Fatal(err)
	}
	if pids, err := c.Pids(t.Context()); err != nil || len(pids) != 2 || len(c.Processes()) != 1 {
		t.Errorf("Pids = %v, %v; %d processes executed", pids, err, len(c.Processes()))
	}
	for _, p := range c.Processes() { // nobody wants its pipes
		if err := p.Signal(t.Context(), 9, false); err != nil {
			t.Errorf("Signal: %v", err)
		}
		if exit, err := p.Wait(t.Context()); err != nil || exit.Status != 137 {
			t.Errorf("Wait = %+v, %v", exit, err)
		}
	}
	var stdout bytes.Buffer
	text := strings.Repeat("again ", 50_000) // more than a pipe holds
	if err := c.Init().(platform.Reconnecter).Reconnect(platform.IO{Stdin: strings.NewReader(text), Stdout: &stdout}); err != nil {
		t.Fatal(err)
	}
	if exit, err := c.Init().Wait(t.Context()); err != nil || exit.Status != 0 || stdout.String() != text {
		t.Errorf("Wait = %+v, %v; %d bytes came back, of %d", exit, err, stdout.Len(), len(text))
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	needNothing(t, s.ID)
}
