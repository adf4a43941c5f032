package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	runc "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/slipwayd/slipway/internal/ipc"
	"github.com/slipwayd/slipway/internal/opaque"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// commandTimeout is how long a third party's shim binary may take for start or delete, and maxReply how much it may say.
const (
	commandTimeout = 30 * time.Second
	maxReply       = 1 << 20
)

// goneError is that a third party's shim has died: its tasks are lost, for none of those can adopt.
type goneError struct{ err error }

func (e *goneError) Error() string { return "the shim has died: " + e.err.Error() }
func (e *goneError) Unwrap() error { return errdefs.ErrUnavailable }

// foreign is the shim process of one task, made from a third party's binary by containerd's protocol (its runtime v2
// README): `-namespace NS -id ID -address ADDR -publish-binary BIN start` in the bundle, BootstrapParams on standard input.
type foreign struct {
	m *Manager
	e *entry

	mu  sync.Mutex
	cur *conn
}

func (m *Manager) foreignShim(e *entry) *foreign { return &foreign{m: m, e: e} }

func (f *foreign) connection(ctx context.Context) (*conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cur.alive() {
		return f.cur, nil
	}
	r := f.e.record
	if r.Lost != nil || r.Address == "" {
		return nil, &goneError{errors.New("it is not running")}
	}
	c, err := connect(ctx, r.Address, r.Version, f.e.ns, f.e.id)
	if ipc.Nobody(err) {
		return nil, &goneError{err}
	}
	if err != nil {
		return nil, err
	}
	f.cur = c
	f.m.wait.Go(func() { f.guard(c) })
	return c, nil
}

// guard waits for the shim's death, or its silence that lasts.
func (f *foreign) guard(c *conn) {
	select {
	case <-c.closed:
	case <-f.m.ctx.Done():
		return
	}
	if e, _ := f.m.find(f.e.ns, f.e.id); e != f.e || f.m.ctx.Err() != nil {
		return // deleted; it ended because we asked it to
	}
	f.m.recover(f)
}

func (f *foreign) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cur != nil {
		f.cur.client.Close()
	}
}

// start runs the binary and records where its shim listens.
func (f *foreign) start(ctx context.Context) error {
	e := f.e
	// Shims write their log to a file of this name in the bundle. containerd makes it a fifo, whose writers suffer when it restarts.
	log, err := openLog(filepath.Join(e.bundle.path, "log"))
	if err != nil {
		return err
	}
	log.Close()
	if err := os.Mkdir(filepath.Join(e.bundle.path, "work"), 0o711); err != nil {
		return err
	}
	out, err := f.runStart(ctx)
	if err != nil {
		return err
	}
	reply, err := parseStart(out)
	if err != nil {
		return fmt.Errorf("cannot understand what %s start answers: %w", e.record.Binary, err)
	}
	e.record.Address, e.record.Version = reply.Address, int(reply.Version)
	return e.bundle.write(e.record)
}

// runStart gives the binary what containerd 2.3 and later give it on standard input, and, when it does not like that, what
// earlier ones did: the options alone.
func (f *foreign) runStart(ctx context.Context) ([]byte, error) {
	e := f.e
	params := &bootstrap.BootstrapParams{
		InstanceID: e.id, Namespace: e.ns, ContainerdVersion: "2.3.0", ContainerdGrpcAddress: f.m.conf.Address,
		ContainerdTtrpcAddress: foreignEvents(f.m.conf.Address, f.m.events.path),
	}
	var old []byte
	if o := e.record.Options; o != nil {
		options := &anypb.Any{TypeUrl: o.TypeURL, Value: o.Value}
		err := params.AddExtension(options)
		if err == nil {
			old, err = proto.Marshal(options)
		}
		if err != nil {
			return nil, err
		}
	}
	input, err := proto.Marshal(params)
	if err != nil {
		return nil, err
	}
	f.m.mu.Lock()
	legacy := f.m.legacy[e.record.Binary]
	f.m.mu.Unlock()
	var modernErr error
	if !legacy {
		out, err := f.command(ctx, input, "start")
		if err == nil {
			return out, nil
		}
		modernErr = err
	}
	out, err := f.command(ctx, old, "start")
	if err != nil {
		return nil, errors.Join(modernErr, err)
	}
	f.m.mu.Lock()
	f.m.legacy[e.record.Binary] = true
	f.m.mu.Unlock()
	return out, nil
}

// command runs the shim binary for an action.
func (f *foreign) command(ctx context.Context, input []byte, action string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	e, binary := f.e, f.e.record.Binary
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{"-namespace", e.ns, "-address", f.m.conf.Address, "-publish-binary", self, "-id", e.id}
	if action == "delete" {
		args = append(args, "-bundle", e.bundle.path)
	}
	cmd := exec.CommandContext(ctx, binary, append(args, action)...)
	cmd.Dir = e.bundle.path
	cmd.Env = append(os.Environ(), "GOMAXPROCS=2", "MAX_SHIM_VERSION=3", "TTRPC_ADDRESS="+foreignEvents(f.m.conf.Address, f.m.events.path),
		"GRPC_ADDRESS="+f.m.conf.Address, "NAMESPACE="+e.ns)
	cmd.SysProcAttr = ipc.Detached()
	cmd.Stdin = bytes.NewReader(input)
	var out, complaint limited
	cmd.Stdout, cmd.Stderr = &out, &complaint
	cmd.WaitDelay = time.Second // a shim that keeps our pipe open must not hold us
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		kind := error(errdefs.ErrUnknown)
		if errors.Is(err, os.ErrNotExist) {
			kind = errdefs.ErrNotFound
		}
		return nil, fmt.Errorf("cannot %s shim with %s: %w: %s: %w", action, binary, err, strings.TrimSpace(complaint.String()+out.String()), kind)
	}
	return out.Bytes(), nil
}

// lastWords is what a shim that died wrote to its log of a panic, or else last.
func (f *foreign) lastWords() string {
	data, _ := os.ReadFile(filepath.Join(f.e.bundle.path, "log"))
	text := strings.TrimSpace(string(data[max(0, len(data)-8192):]))
	if i := strings.LastIndex(text, "panic: "); i >= 0 {
		text, _, _ = strings.Cut(text[i:], "\n")
		return text
	}
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// limited keeps the first maxReply bytes.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.Buffer.Write(p[:min(len(p), max(0, maxReply-l.Len()))])
	return len(p), nil
}

// ReadFrom hides the Buffer's, which knows no bound.
func (l *limited) ReadFrom(r io.Reader) (int64, error) { return io.Copy(struct{ io.Writer }{l}, r) }

// parseStart reads the answer to start: a BootstrapResult of containerd 2.3 on, JSON of 1.7 on, or a bare address.
func parseStart(out []byte) (*bootstrap.BootstrapResult, error) {
	var r bootstrap.BootstrapResult
	if err := proto.Unmarshal(out, &r); err != nil || r.Address == "" {
		text := bytes.TrimSpace(out)
		var old struct {
			Version           int32
			Address, Protocol string
		}
		if err := json.Unmarshal(text, &old); err != nil {
			old.Version, old.Address = 2, string(text)
		}
		r.Reset()
		r.Version, r.Address, r.Protocol = old.Version, old.Address, old.Protocol
	}
	switch {
	case r.Address == "" || len(r.Address) > 4096:
		return nil, fmt.Errorf("no address in %d bytes: %w", len(out), errdefs.ErrInvalidArgument)
	case r.Version < 2 || r.Version > 3:
		return nil, fmt.Errorf("version %d of the task API: %w", r.Version, errdefs.ErrNotImplemented)
	case r.Protocol != "" && r.Protocol != "ttrpc":
		return nil, fmt.Errorf("protocol %q: %w", r.Protocol, errdefs.ErrNotImplemented)
	}
	return &r, nil
}

// lost cleans up after a third party's shim that died, and tells its task as exited with 255. The task stays until Delete.
func (m *Manager) lost(e *entry) {
	f, ok := e.shim.(*foreign)
	if !ok {
		return
	}
	e.life.Lock()
	defer e.life.Unlock()
	if again, _ := m.find(e.ns, e.id); again != e {
		return // undone or deleted meanwhile
	}
	x := Exit{Status: 255, At: time.Now()}
	if e.record.Lost != nil {
		x = *e.record.Lost
	} else {
		out, err := f.command(m.ctx, nil, "delete")
		var r task.DeleteResponse
		if err = errors.Join(err, proto.Unmarshal(out, &r)); err != nil {
			m.conf.Log.Error("cannot clean up after a dead shim", "namespace", e.ns, "id", e.id, "error", err)
		} else {
			x.Pid = r.Pid
		}
		f.mu.Lock() // connection reads it
		e.record.Lost = &x
		f.mu.Unlock()
		if err := e.bundle.write(e.record); err != nil {
			m.conf.Log.Error("cannot record that a task is lost", "namespace", e.ns, "id", e.id, "error", err)
		}
	}
	m.endAll(e, x)
}

// endAll tells the end of every process of a task, init last.
func (m *Manager) endAll(e *entry, x Exit) {
	e.mu.Lock()
	var execs []string
	for id := range e.procs {
		if id != "" {
			execs = append(execs, id)
		}
	}
	e.mu.Unlock()
	for _, id := range execs {
		m.end(e, id, Exit{Status: x.Status, At: x.At})
	}
	m.end(e, "", x)
}

// follow waits for a process by the shim's own Wait: third parties' events are not certain to come.
func (f *foreign) follow(execID string) {
	f.m.wait.Go(func() {
		c, err := f.connection(f.m.ctx)
		if err != nil {
			return
		}
		var r task.WaitResponse
		err = c.call(f.m.ctx, f.e.ns, "Wait", &task.WaitRequest{ID: f.e.id, ExecID: execID}, &r)
		if err != nil {
			return // its death is guard's business
		}
		p, err := f.e.proc(execID)
		if err != nil {
			return // deleted meanwhile
		}
		// The event is usually right behind, and says the same.
		select {
		case <-p.done:
		case <-time.After(2 * time.Second):
			f.e.mu.Lock()
			pid := p.state.Pid
			f.e.mu.Unlock()
			f.m.end(f.e, execID, Exit{Pid: pid, Status: r.ExitStatus, At: r.ExitedAt.AsTime()})
		case <-f.m.ctx.Done():
		}
	})
}

// isolate gives containerd's shim for runc a state directory of this daemon's: runc's ids are unique in there only, and
// another daemon of the host may use the same.
func (m *Manager) isolate(binary string, options *opaque.Any) (*opaque.Any, error) {
	if filepath.Base(binary) != "containerd-shim-runc-v2" {
		return options, nil
	}
	var o runc.Options
	if options != nil {
		a := &anypb.Any{TypeUrl: options.TypeURL, Value: options.Value}
		if !typeurl.Is(a, &o) {
			return options, nil
		}
		if err := typeurl.UnmarshalTo(a, &o); err != nil {
			return nil, fmt.Errorf("cannot read runtime options: %v: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	if o.Root != "" {
		return options, nil
	}
	o.Root = filepath.Join(m.conf.State, "runc")
	a, err := typeurl.MarshalAny(&o)
	if err != nil {
		return nil, err
	}
	return &opaque.Any{TypeURL: a.GetTypeUrl(), Value: a.GetValue()}, nil
}

// Foreign tells whether a runtime is a third party's shim, and not the built-in executor. NotFound when its binary is nowhere.
func (m *Manager) Foreign(runtime string) (bool, error) {
	binary, _, err := m.resolve(runtime)
	return binary != "", err
}

// resolve answers the shim binary a runtime name means; "" for the built-in. Names are io.containerd.NAME.VERSION, for
// containerd-shim-NAME-VERSION on PATH, or an absolute path. The one that containerd's clients ask for on Windows is built in as well where it is not on PATH.
func (m *Manager) resolve(runtime string) (string, *RuntimeConfig, error) {
	if r, ok := m.conf.Runtimes[runtime]; ok {
		return r.Path, &r, nil
	}
	switch runtime {
	case "", "io.containerd.runc.v2", "io.containerd.slipway.v1":
		return "", nil, nil
	}
	if filepath.IsAbs(runtime) {
		if st, err := os.Stat(runtime); err != nil || !st.Mode().IsRegular() {
			return "", nil, fmt.Errorf("runtime %q is no file: %w", runtime, errdefs.ErrInvalidArgument)
		}
		return runtime, nil, nil
	}
	parts := strings.Split(runtime, ".")
	if len(parts) < 3 || strings.ContainsAny(runtime, "/\\") || parts[len(parts)-1] == "" || parts[len(parts)-2] == "" {
		return "", nil, fmt.Errorf("runtime %q is neither a name such as io.containerd.runc.v2 nor an absolute path: %w", runtime, errdefs.ErrInvalidArgument)
	}
	binary := "containerd-shim-" + parts[len(parts)-2] + "-" + parts[len(parts)-1]
	path, err := exec.LookPath(binary)
	if err != nil && runtime == hostRuntime {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, fmt.Errorf("cannot find %s on PATH for runtime %q; install it or name its path in the configuration: %w", binary, runtime, errdefs.ErrNotFound)
	}
	path, err = filepath.Abs(path)
	return path, nil, err
}
