package e2ewine

import (
	"errors"
	"strings"
	"testing"

	"github.com/Microsoft/hcsshim/cmd/containerd-shim-runhcs-v1/stats"
	"github.com/Microsoft/hcsshim/hcn"
)

// TestFirstSteps is what the README's first steps are on Windows.
func TestFirstSteps(t *testing.T) {
	d := newDaemon(t)
	img := d.image(hello())
	if out := d.must("images"); !strings.Contains(out, img.Image.Name) {
		t.Errorf("images = %q", out)
	}
	if out := d.must("run", "--rm", img.Image.Name); !strings.Contains(out, "hello from the top") {
		t.Errorf("run = %q", out)
	}
	if out := d.must("run", "--rm", img.Image.Name, "cmd", "/c", "dir", "/b", `C:\`); strings.Contains(out, "gone.txt") || !strings.Contains(out, "new.txt") {
		t.Errorf("the files of both layers are %q", out)
	}
	if out, errs, code := d.cli("", "run", "--rm", img.Image.Name, "cmd", "/c", "echo oops>&2& exit 7"); code != 7 || !strings.Contains(errs, "oops") {
		t.Errorf("exit code %d, %q, %q", code, out, errs)
	}
	// One line: wine's cmd reads ahead and loses the next.
	if out, errs, code := d.cli("echo from %SLIPWAY%\r\n", "run", "-i", "--rm", img.Image.Name, "cmd"); code != 0 || !strings.Contains(out, "from "+osVersion) {
		t.Errorf("standard input: exit code %d, %q, %q", code, out, errs)
	}
	if out := d.must("ps", "-a"); strings.Contains(out, img.Image.Name) {
		t.Errorf("containers are left: %s", out)
	}
}

// sleeper runs in the background until it is killed.
var sleeper = []string{"cmd", "/c", "echo up& ping -n 1000 127.0.0.1 >nul"}

func TestBackground(t *testing.T) {
	d := newDaemon(t)
	img := d.image(hello())
	d.must(append([]string{"run", "-d", "--name", "web", img.Image.Name}, sleeper...)...)
	d.eventually("logs do not come", func() error {
		return wants(d.must("logs", "web"), "up")
	})
	if out := d.must("exec", "web", "cmd", "/c", "echo", "inside"); !strings.Contains(out, "inside") {
		t.Errorf("exec = %q", out)
	}
	if out := d.must("ps"); !strings.Contains(out, "web") || !strings.Contains(out, "Up ") {
		t.Errorf("ps = %q", out)
	}
	ct, err := d.Container(d.ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	task, err := ct.Task(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := task.Metrics(d.ctx)
	if s, ok := metrics.(*stats.Statistics); err != nil || !ok || s.GetWindows().GetTimestamp() == nil {
		t.Errorf("metrics: %+v, %v", metrics, err)
	}
	d.must("kill", "web")
	if _, err := task.Wait(d.ctx); err != nil {
		t.Error(err)
	}
	d.must("rm", "web")
	if out := d.must("ps", "-a"); strings.Contains(out, "web") {
		t.Errorf("ps -a = %q", out)
	}
}

// TestNetwork: a container gets a namespace with an endpoint on the nat network, and gives both back.
func TestNetwork(t *testing.T) {
	d := newDaemon(t)
	img := d.image(hello())
	d.must(append([]string{"run", "-d", "--name", "web", "--network", "nat", "-p", "8480:80", img.Image.Name}, sleeper...)...)
	ct, err := d.Container(d.ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	if ct.Spec.Windows == nil || ct.Spec.Windows.Network == nil {
		t.Fatalf("the document has no network: %+v", ct.Spec.Windows)
	}
	namespace := ct.Spec.Windows.Network.NetworkNamespace
	ids, err := hcn.GetNamespaceEndpointIds(namespace)
	if err != nil || len(ids) != 1 {
		t.Fatalf("its namespace has endpoints %v, %v", ids, err)
	}
	if _, errs, code := d.cli("", "run", "--rm", "--network", "nat", "-p", "8480:80", img.Image.Name); code == 0 {
		t.Errorf("a port of the host is given twice: %q", errs)
	}
	if out := d.must("run", "--rm", "--network", "nat", img.Image.Name); !strings.Contains(out, "hello") {
		t.Errorf("run = %q", out)
	}
	d.must("run", "-d", "--rm", "--name", "short", "--network", "nat", img.Image.Name)
	d.eventually("a detached container with --rm is left", func() error {
		if out := d.must("ps", "-a"); strings.Contains(out, "short") {
			return errors.New(out)
		}
		return nil
	})
	d.ctr("tasks", "rm", "--force", "web")
	d.ctr("containers", "rm", "web") // by a client that knows nothing of networks
	if _, err := hcn.GetNamespaceByID(namespace); !hcn.IsNotFoundError(err) {
		t.Errorf("the namespace is left: %v", err)
	}
	all, err := hcn.ListEndpoints()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if strings.HasPrefix(e.Name, "slipway-") {
			t.Errorf("endpoint %s is left", e.Name)
		}
	}
	if n, err := hcn.GetNetworkByName("slipway-nat"); err == nil {
		err = n.Delete()
		if err != nil {
			t.Error(err)
		}
	}
}
