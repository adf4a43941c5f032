package e2ewine

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// streams are a client's ends of a process's streams, as kubectl has them by kubelet.
type streams struct {
	*kubelet
	conn httpstream.Connection
	all  map[string]httpstream.Stream
}

// dialSPDY begins a stream at the address that CRI gave out.
func (k *kubelet) dialSPDY(url, protocol string) httpstream.Connection {
	k.Helper()
	rt, err := spdy.NewRoundTripper(nil)
	if err != nil {
		k.Fatal(err)
	}
	req, err := http.NewRequestWithContext(k.d.ctx, http.MethodPost, url, nil)
	if err != nil {
		k.Fatal(err)
	}
	req.Header.Set(httpstream.HeaderProtocolVersion, protocol)
	resp, err := rt.RoundTrip(req)
	if err != nil {
		k.Fatal(err)
	}
	defer resp.Body.Close()
	conn, err := rt.NewConnection(resp)
	if err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() { conn.Close() })
	return conn
}

func (k *kubelet) stream(url string, names ...string) *streams {
	k.Helper()
	s := &streams{kubelet: k, conn: k.dialSPDY(url, "v4.channel.k8s.io"), all: map[string]httpstream.Stream{}}
	for _, name := range append([]string{"error"}, names...) {
		one, err := s.conn.CreateStream(http.Header{"streamType": {name}})
		if err != nil {
			k.Fatal(err)
		}
		s.all[name] = one
	}
	return s
}

// say writes to standard input and ends it.
func (s *streams) say(text string) {
	s.Helper()
	if _, err := io.WriteString(s.all["stdin"], text); err != nil {
		s.Fatal(err)
	}
	if err := s.all["stdin"].Close(); err != nil {
		s.Fatal(err)
	}
}

// read is all of a stream.
func (s *streams) read(name string) string {
	s.Helper()
	data, err := io.ReadAll(s.all[name])
	if err != nil {
		s.Fatal(err)
	}
	return string(data)
}

// code is the exit code that the stream of errors tells (Kubernetes' metav1.Status), 0 for success and -1 for anything else.
func (s *streams) code() int {
	s.Helper()
	var st struct {
		Status  string
		Details struct {
			Causes []struct{ Reason, Message string }
		}
	}
	if err := json.Unmarshal([]byte(s.read("error")), &st); err != nil {
		s.Fatal(err)
	}
	if st.Status == "Success" {
		return 0
	}
	for _, c := range st.Details.Causes {
		if n, err := strconv.Atoi(c.Message); err == nil && c.Reason == "ExitCode" {
			return n
		}
	}
	return -1
}

func TestPodExec(t *testing.T) {
	k := startCRI(t, natNetwork)
	pod := k.pod("streams")
	id := k.begin(k.run(pod, ""), pod, k.container("c", k.hello(), sleeper...))
	exec := func(r *runtime.ExecRequest, names ...string) *streams {
		t.Helper()
		r.ContainerId = id
		resp, err := k.Exec(k.d.ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		return k.stream(resp.Url, names...)
	}
	s := exec(&runtime.ExecRequest{Cmd: []string{"cmd", "/c", "echo out& echo err>&2& exit 7"}, Stdout: true, Stderr: true}, "stdout", "stderr")
	if out, errs, code := s.read("stdout"), s.read("stderr"), s.code(); !strings.Contains(out, "out") || !strings.Contains(errs, "err") || code != 7 {
		t.Errorf("exec: %q, %q, %d", out, errs, code)
	}
	s = exec(&runtime.ExecRequest{Cmd: []string{"cmd"}, Stdin: true, Stdout: true}, "stdin", "stdout")
	s.say("echo from %SLIPWAY%\r\n")
	if out, code := s.read("stdout"), s.code(); !strings.Contains(out, "from "+osVersion) || code != 0 {
		t.Errorf("exec with standard input: %q, %d", out, code)
	}
	s = exec(&runtime.ExecRequest{Cmd: []string{"no-such-program"}, Stdout: true}, "stdout")
	if code := s.code(); code == 0 {
		t.Error("what is not there was executed")
	}
}

// TestPodAttach: what a container is told by attach goes to its program, and what that says to the log; kubelet renames the log meanwhile.
func TestPodAttach(t *testing.T) {
	k := startCRI(t, natNetwork)
	pod := k.pod("attach")
	c := k.container("shell", k.hello(), "cmd")
	c.Stdin, c.StdinOnce = true, true
	id := k.begin(k.run(pod, ""), pod, c)
	k.log("shell", "Windows")
	path := filepath.Join(k.logs, "shell.log")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if _, err := k.ReopenContainerLog(k.d.ctx, &runtime.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	resp, err := k.Attach(k.d.ctx, &runtime.AttachRequest{ContainerId: id, Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	s := k.stream(resp.Url, "stdin", "stdout")
	s.say("echo again %SLIPWAY%\r\n")
	if out := s.read("stdout"); !strings.Contains(out, "again "+osVersion) {
		t.Errorf("attach: %q", out)
	}
	k.log("shell", "again "+osVersion)
	if st := k.ended(id); st.ExitCode != 0 {
		t.Errorf("the shell ended with %v", st)
	}
	if old, err := os.ReadFile(path + ".1"); err != nil || strings.Contains(string(old), "again") {
		t.Errorf("the log that was renamed: %q, %v", old, err)
	}
}
