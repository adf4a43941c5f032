package compute

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
	"github.com/slipwayd/slipway/testsuite/hcssim/schema"
)

const document = `{"SystemType":"Container","Name":"c","Owner":"o","VolumePath":"\\\\?\\Volume{6ef0ac40-2b0e-4d3c-8b1e-000000000001}","Layers":[{"ID":"6ef0ac40-2b0e-4d3c-8b1e-000000000002","Path":"C:\\l"}]}`

var closing = strings.Replace(document, `"Name"`, `"TerminateOnLastHandleClosed":true,"Name"`, 1)

// fake processes run until they are killed.
type fakes struct {
	mu  sync.Mutex
	all map[uint32]*fake
	err error
}

type fake struct {
	Process
	pid  uint32
	once sync.Once
	done chan struct{}
	code uint32
}

func (f *fakes) Check(*schema.System) error { return nil }

func (f *fakes) Launch(Launch) (Process, Stdio, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return nil, Stdio{}, f.err
	}
	p := &fake{pid: uint32(len(f.all) + 1), done: make(chan struct{})}
	f.all[p.pid] = p
	return p, Stdio{In: 1, Out: 2}, nil
}

func (f *fakes) Reopen(pid uint32, started int64) (Process, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.all[pid]; p != nil && started == 7 {
		return p, nil
	}
	return nil, errors.New("gone")
}

func (p *fake) PID() uint32    { return p.pid }
func (p *fake) Started() int64 { return 7 }
func (p *fake) Image() string  { return "fake.exe" }
func (p *fake) Usage() Usage   { return Usage{User100ns: 3, CommitBytes: 4096} }
func (p *fake) Wait() uint32   { <-p.done; return p.code }
func (p *fake) Kill(c uint32) error {
	p.once.Do(func() { p.code = c; close(p.done) })
	return nil
}
func (p *fake) End(c uint32) error  { return p.Kill(c) }
func (p *fake) Signal(string) error { return p.Kill(ExitControlC) }

func (p *fake) Streams(client uint32) (Stdio, error) { return Stdio{In: 10, Out: 20}, nil }
func (p *fake) CloseStream(name string) error        { return nil }

type heard struct {
	client string
	Event
}

func start(t *testing.T, dir string, f *fakes) (*Host, chan heard) {
	t.Helper()
	events := make(chan heard, 10_000)
	h, err := New(dir, f, func(c string, e Event) { events <- heard{c, e} })
	if err != nil {
		t.Fatal(err)
	}
	return h, events
}

func newFakes() *fakes { return &fakes{all: map[uint32]*fake{}} }

func want(t *testing.T, err error, c hresult.Code) {
	t.Helper()
	if hresult.Of(err) != c {
		t.Fatalf("%v, want 0x%08x", err, uint32(c))
	}
}

var alice, bob = Client{Name: "1.a", PID: 1}, Client{Name: "2.b", PID: 2}

func TestLife(t *testing.T) {
	h, events := start(t, t.TempDir(), newFakes())
	x, err := h.Create(alice, "c", document)
	want(t, err, hresult.OperationPending)
	_, err = h.Create(alice, "c", document)
	want(t, err, hresult.SystemAlreadyExists)
	_, _, _, err = h.CreateProcess(alice, x, `{"CommandLine":"a"}`)
	want(t, err, hresult.InvalidState)
	want(t, h.Register(alice, x, 5, false), hresult.OK)
	if e := <-events; e.Type != CreateCompleted || e.Callback != 5 {
		t.Fatalf("heard %+v before anything else", e)
	}
	want(t, h.Start(alice, x), hresult.OperationPending)
	if e := <-events; e.Type != StartCompleted {
		t.Fatalf("heard %+v after a start", e)
	}
	want(t, h.Start(alice, x), hresult.InvalidState)
	want(t, h.Pause(alice, x), hresult.NotImplemented)
	want(t, h.Start(bob, x), hresult.InvalidHandle)
	p, pid, io, err := h.CreateProcess(alice, x, `{"CommandLine":"a","CreateStdInPipe":true}`)
	want(t, err, hresult.OK)
	if pid != 1 || io.In != 1 {
		t.Fatalf("process %d with %+v", pid, io)
	}
	doc, err := h.Properties(alice, x, `{"PropertyTypes":["Statistics","ProcessList"]}`)
	want(t, err, hresult.OK)
	if !strings.Contains(doc, `"ImageName":"fake.exe"`) || !strings.Contains(doc, `"MemoryUsageCommitBytes":4096`) {
		t.Errorf("properties %s", doc)
	}
	want(t, h.Register(alice, p, 6, true), hresult.OK)
	want(t, h.ModifyProcess(alice, p, `{"Operation":"ConsoleSize","ConsoleSize":{"Height":1,"Width":2}}`), hresult.InvalidState)
	want(t, h.TerminateProcess(alice, p), hresult.OK)
	if e := <-events; e.Type != ProcessExited || e.Callback != 6 {
		t.Fatalf("heard %+v after a process was killed", e)
	}
	want(t, h.TerminateProcess(alice, p), hresult.ProcessAlreadyEnded)
	if doc, _ := h.ProcessProperties(alice, p); !strings.Contains(doc, `"Exited":true,"ExitCode":1067`) {
		t.Errorf("properties %s", doc)
	}
	late, err := h.OpenProcess(alice, x, pid)
	want(t, err, hresult.OK)
	want(t, h.Register(alice, late, 8, true), hresult.OK)
	if e := <-events; e.Type != ProcessExited || e.Callback != 8 {
		t.Fatalf("heard %+v of a process that had exited", e)
	}
	want(t, h.Stop(alice, x, false), hresult.OperationPending)
	if e := <-events; e.Type != SystemExited {
		t.Fatalf("heard %+v after the end", e)
	}
	want(t, h.Stop(alice, x, false), hresult.SystemAlreadyStopped)
	_, err = h.Open(alice, "c")
	want(t, err, hresult.SystemNotFound)
}

// What a handle missed before its callback was registered comes then, in order.
func TestLateCallback(t *testing.T) {
	h, events := start(t, t.TempDir(), newFakes())
	x, err := h.Create(alice, "c", document)
	want(t, err, hresult.OperationPending)
	want(t, h.Start(alice, x), hresult.OperationPending)
	want(t, h.Stop(alice, x, true), hresult.OperationPending)
	want(t, h.Register(alice, x, 1, false), hresult.OK)
	for _, typ := range []uint32{CreateCompleted, StartCompleted, SystemExited} {
		if e := <-events; e.Type != typ {
			t.Fatalf("heard %+v, want type %d", e, typ)
		}
	}
}

func TestRestart(t *testing.T) {
	dir, f := t.TempDir(), newFakes()
	h, _ := start(t, dir, f)
	x, err := h.Create(alice, "c", document)
	want(t, err, hresult.OperationPending)
	want(t, h.Start(alice, x), hresult.OperationPending)
	for range 2 {
		_, _, _, err = h.CreateProcess(alice, x, `{"CommandLine":"a"}`)
		want(t, err, hresult.OK)
	}
	// Process 2 ends while no service runs; the first service hears of nothing any more.
	after := newFakes()
	after.all[1] = &fake{pid: 1, done: make(chan struct{})}
	h, events := start(t, dir, after)
	x, err = h.Open(bob, "c")
	want(t, err, hresult.OK)
	p, err := h.OpenProcess(bob, x, 1)
	want(t, err, hresult.OK)
	want(t, h.Register(bob, p, 3, true), hresult.OK)
	gone, err := h.OpenProcess(bob, x, 2)
	want(t, err, hresult.OK)
	if doc, _ := h.ProcessProperties(bob, gone); !strings.Contains(doc, `"Exited":true`) {
		t.Errorf("a process that is no more: %s", doc)
	}
	want(t, h.SignalProcess(bob, p, `{"Signal":"CtrlShutdown"}`), hresult.OK)
	if e := <-events; e.Type != ProcessExited || e.client != bob.Name {
		t.Fatalf("heard %+v", e)
	}
	if doc, _ := h.ProcessProperties(bob, p); !strings.Contains(doc, fmt.Sprint(uint32(ExitControlC))) {
		t.Errorf("properties %s", doc)
	}
	want(t, h.Stop(bob, x, false), hresult.OperationPending)
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%v is left", left)
	}
}

func TestClientDies(t *testing.T) {
	h, _ := start(t, t.TempDir(), newFakes())
	for id, doc := range map[string]string{"stays": document, "goes": closing} {
		_, err := h.Create(alice, id, doc)
		want(t, err, hresult.OperationPending)
	}
	h.Gone(alice)
	_, err := h.Open(bob, "stays")
	want(t, err, hresult.OK)
	_, err = h.Open(bob, "goes")
	want(t, err, hresult.SystemNotFound)
}

func TestHosted(t *testing.T) {
	h, _ := start(t, t.TempDir(), newFakes())
	hosted := `{"Owner":"o","SchemaVersion":{"Major":2,"Minor":1},"HostingSystemId":"vm","HostedSystem":{"SchemaVersion":{"Major":2,"Minor":1},"Container":{"Storage":{"Path":"\\\\?\\Volume{6ef0ac40-2b0e-4d3c-8b1e-000000000001}\\","Layers":[{"Id":"6ef0ac40-2b0e-4d3c-8b1e-000000000002","Path":"C:\\l"}]}}}}`
	_, err := h.Create(alice, "c", hosted)
	want(t, err, hresult.SystemNotFound)
	vm, err := h.Create(alice, "vm", `{"Owner":"o","SchemaVersion":{"Major":2,"Minor":1},"VirtualMachine":{"Chipset":{},"ComputeTopology":{}}}`)
	want(t, err, hresult.OperationPending)
	_, err = h.Create(alice, "c", hosted)
	want(t, err, hresult.OperationPending)
	want(t, h.Stop(alice, vm, false), hresult.OperationPending)
	_, err = h.Open(alice, "c")
	want(t, err, hresult.SystemNotFound)
}

// A system whose start of a process fails, or that is stopped while one is starting, still ends.
func TestFailingLaunch(t *testing.T) {
	f := newFakes()
	h, events := start(t, t.TempDir(), f)
	x, err := h.Create(alice, "c", document)
	want(t, err, hresult.OperationPending)
	want(t, h.Start(alice, x), hresult.OperationPending)
	f.err = hresult.New(hresult.FileNotFound, "no such program")
	_, _, _, err = h.CreateProcess(alice, x, `{"CommandLine":"a"}`)
	want(t, err, hresult.FileNotFound)
	want(t, h.Register(alice, x, 1, false), hresult.OK)
	want(t, h.Stop(alice, x, false), hresult.OperationPending)
	for e := range events {
		if e.Type == SystemExited {
			return
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	h, _ := start(t, t.TempDir(), newFakes())
	var group sync.WaitGroup
	for i := range 48 {
		group.Go(func() {
			c := Client{Name: fmt.Sprint(i), PID: uint32(i)}
			x, err := h.Create(c, fmt.Sprint("c", i), document)
			if hresult.Of(err) != hresult.OperationPending {
				t.Errorf("create: %v", err)
				return
			}
			_ = h.Start(c, x)
			p, _, _, err := h.CreateProcess(c, x, `{"CommandLine":"a"}`)
			if err != nil {
				t.Errorf("process: %v", err)
				return
			}
			_ = h.TerminateProcess(c, p)
			_ = h.Stop(c, x, false)
			h.Gone(c)
		})
	}
	group.Wait()
	h.waits.Wait()
	if list, _ := h.Enumerate(""); list != "[]" {
		t.Errorf("left: %s", list)
	}
}
