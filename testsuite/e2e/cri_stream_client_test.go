package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"syscall"
	"testing"

	"github.com/gorilla/websocket"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// remote is a client's end of a process's streams, as kubectl has it.
type remote struct {
	t    *testing.T
	conn httpstream.Connection
	all  map[string]httpstream.Stream
	out  [2]output
	wait sync.WaitGroup
}

// output collects what a stream brings.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// dialStreams opens streams over SPDY: stdin, stdout, stderr, resize.
func dialStreams(t *testing.T, url string, names ...string) *remote {
	t.Helper()
	return dialStreamsTLS(t, nil, url, names...)
}

func dialStreamsTLS(t *testing.T, conf *tls.Config, url string, names ...string) *remote {
	t.Helper()
	r := &remote{t: t, conn: dialSPDY(t, conf, url, "v4.channel.k8s.io"), all: map[string]httpstream.Stream{}}
	for _, name := range append([]string{"error"}, names...) {
		s, err := r.conn.CreateStream(http.Header{"streamType": {name}})
		if err != nil {
			t.Fatal(err)
		}
		r.all[name] = s
	}
	for i, name := range []string{"stdout", "stderr"} {
		if s := r.all[name]; s != nil {
			r.wait.Go(func() { _, _ = io.Copy(&r.out[i], s) })
		}
	}
	return r
}

func dialSPDY(t *testing.T, conf *tls.Config, url, protocol string) httpstream.Connection {
	t.Helper()
	rt, err := spdy.NewRoundTripper(conf)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(httpstream.HeaderProtocolVersion, protocol)
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	conn, err := rt.NewConnection(resp)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// result waits for the end and answers what came, with the exit code, -1 for another failure.
func (r *remote) result() (stdout, stderr string, code int) {
	r.t.Helper()
	data, err := io.ReadAll(r.all["error"])
	if err != nil {
		r.t.Fatal(err)
	}
	r.wait.Wait()
	return r.out[0].String(), r.out[1].String(), exitStatus(r.t, data)
}

func exitStatus(t *testing.T, data []byte) int {
	t.Helper()
	var st struct {
		Status, Message string
		Details         struct {
			Causes []struct{ Reason, Message string }
		}
	}
	if err := json.Unmarshal(data, &st); err != nil {
		t.Fatalf("the status is %q: %v", data, err)
	}
	if st.Status == "Success" {
		return 0
	}
	code := -1
	for _, c := range st.Details.Causes {
		if c.Reason == "ExitCode" {
			_ = json.Unmarshal([]byte(c.Message), &code)
		}
	}
	if code < 0 {
		t.Logf("the streams ended with %q", st.Message)
	}
	return code
}

// websocketResult reads the streams of a process over a websocket: the first byte of each message names the stream.
func websocketResult(t *testing.T, url string) (stdout, stderr string, code int) {
	t.Helper()
	dialer := websocket.Dialer{Subprotocols: []string{"v4.channel.k8s.io"}}
	conn, resp, err := dialer.DialContext(t.Context(), "ws"+url[len("http"):], nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	defer resp.Body.Close()
	var out [4][]byte
	for {
		_, data, err := conn.ReadMessage()
		if websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseAbnormalClosure) {
			return string(out[1]), string(out[2]), exitStatus(t, out[3])
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > 0 && int(data[0]) < len(out) {
			out[data[0]] = append(out[data[0]], data[1:]...)
		}
	}
}

// killShim kills the shim while the daemon is there to replace it.
func killShim(t *testing.T, d *daemon) {
	t.Helper()
	for _, pid := range d.shims() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
}
