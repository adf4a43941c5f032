package service

import (
	"errors"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/slipwayd/slipway/testsuite/hcssim/compute"
	"github.com/slipwayd/slipway/testsuite/hcssim/faults"
	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
	"github.com/slipwayd/slipway/testsuite/hcssim/layers"
	"github.com/slipwayd/slipway/testsuite/hcssim/networks"
	"github.com/slipwayd/slipway/testsuite/hcssim/schema"
	"github.com/slipwayd/slipway/testsuite/hcssim/wire"
)

// noPrograms is a host on which nothing can be run.
type noPrograms struct{}

func (noPrograms) Check(*schema.System) error { return nil }
func (noPrograms) Launch(compute.Launch) (compute.Process, compute.Stdio, error) {
	return nil, compute.Stdio{}, hresult.New(hresult.FileNotFound, "no program")
}
func (noPrograms) Reopen(uint32, int64) (compute.Process, error) { return nil, errors.New("gone") }

// serve answers a function that calls the simulator as a stub does, and the rules in force. exit is what a rule that says Die calls.
func serve(t *testing.T, exit func()) (dial func() func(name string, args ...[]byte) (hresult.Code, [][]byte), rules *faults.Set) {
	t.Helper()
	dir := t.TempDir()
	store, err := layers.New(filepath.Join(dir, "layers"), filepath.Join(dir, "volumes"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := networks.New(filepath.Join(dir, "networks.json"))
	if err != nil {
		t.Fatal(err)
	}
	rules = &faults.Set{}
	s := New(Config{Token: "secret", Layers: store, Networks: n, Faults: rules, Log: log.New(io.Discard, "", 0), Exit: exit})
	host, err := compute.New(filepath.Join(dir, "systems"), noPrograms{}, s.Send)
	if err != nil {
		t.Fatal(err)
	}
	s.SetHost(host)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { _ = s.Serve(l) }()
	return func() func(string, ...[]byte) (hresult.Code, [][]byte) {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := wire.WriteFrame(c, []byte("secret"), []byte("calls"), []byte("1.1")); err != nil {
			t.Fatal(err)
		}
		return func(name string, args ...[]byte) (hresult.Code, [][]byte) {
			if err := wire.WriteFrame(c, append([][]byte{[]byte(name)}, args...)...); err != nil {
				t.Error(err)
				return 0, nil
			}
			reply, err := wire.ReadFrame(c)
			if err != nil || len(reply) == 0 {
				t.Errorf("%s: %v, %q", name, err, reply)
				return 0, nil
			}
			a := wire.NewArgs(reply[:1])
			return hresult.Code(a.Uint32()), reply[1:]
		}
	}, rules
}

// exports are the functions of the stub DLLs.
func exports(t *testing.T) (names []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "dll", "exports.h"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	objects := regexp.MustCompile(`(?m)^OBJECT\((\w+), (\w+)\)`).FindAllStringSubmatch(text, -1)
	for _, m := range regexp.MustCompile(`API (\w+(?:##\w+)*)\(`).FindAllStringSubmatch(text, -1) {
		if !strings.Contains(m[1], "##") {
			names = append(names, strings.TrimPrefix(m[1], "Hcssim"))
			continue
		}
		for _, o := range objects {
			one := strings.NewReplacer("##One##", o[1], "##One", o[1], "##Many", o[2]).Replace(m[1])
			names = append(names, one)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// TestAnyCall: every function that the DLLs have can be told to fail, with and without having done what it does, and answers calls that make no sense.
func TestAnyCall(t *testing.T) {
	dial, rules := serve(t, nil)
	call := dial()
	names := exports(t)
	if len(names) < 70 {
		t.Fatalf("%d functions: %q", len(names), names)
	}
	var missing []string
	for _, name := range names {
		code, reply := call(name)
		if code == hresult.NotImplemented {
			missing = append(missing, name)
		}
		for _, after := range []bool{false, true} {
			if err := rules.Add(faults.Rule{Name: name, Call: name, Fail: hresult.AccessDenied, After: after}); err != nil {
				t.Fatal(err)
			}
			failed, document := call(name)
			if failed != hresult.AccessDenied {
				t.Errorf("%s was to fail and answers 0x%08x", name, uint32(failed))
			}
			if last := len(document) - 1; strings.HasPrefix(name, "Hc") && last >= 0 && !strings.Contains(wire.NewArgs(document[last:]).String(), "ErrorEvents") {
				t.Errorf("%s fails without a result document: %q", name, document)
			}
		}
		if again, other := call(name); again != code || len(other) != len(reply) {
			t.Errorf("%s answers 0x%08x after the rule and 0x%08x before", name, uint32(again), uint32(code))
		}
	}
	if code, _ := call("HcsSaveComputeSystem", wire.Uint64(1), wire.UTF16("")); code == hresult.NotImplemented {
		missing = append(missing, "HcsSaveComputeSystem")
	}
	if want := []string{"CopyLayer", "CreateLayer", "HcsSaveComputeSystem"}; !slices.Equal(missing, want) {
		t.Errorf("not simulated: %q, want %q", missing, want)
	}
}

// TestStallAndDie: a stalled call holds up nobody else, and goes on when it is released.
func TestStallAndDie(t *testing.T) {
	died := make(chan bool, 2) // a dead simulator does not come to a second time
	dial, rules := serve(t, func() { died <- true })
	if err := rules.Add(faults.Rule{Name: "slow", Call: "Hcs*", Match: "c1", Stall: true}); err != nil {
		t.Fatal(err)
	}
	slow, other := dial(), dial()
	answered := make(chan hresult.Code)
	go func() {
		code, _ := slow("HcsOpenComputeSystem", wire.UTF16("c1"))
		answered <- code
	}()
	for rules.Hits("slow") == 0 {
		runtime.Gosched()
	}
	if code, _ := other("HcsOpenComputeSystem", wire.UTF16("c2")); code != hresult.SystemNotFound {
		t.Errorf("another call answers 0x%08x", uint32(code))
	}
	select {
	case code := <-answered:
		t.Fatalf("a stalled call answers 0x%08x", uint32(code))
	default:
	}
	rules.Release("slow")
	if code := <-answered; code != hresult.SystemNotFound {
		t.Errorf("the released call answers 0x%08x", uint32(code))
	}
	if err := rules.Add(faults.Rule{Call: "LayerExists", Die: true}); err != nil {
		t.Fatal(err)
	}
	other("LayerExists", wire.UTF16(""), wire.UTF16("x"))
	if !<-died {
		t.Error("it lives")
	}
}
