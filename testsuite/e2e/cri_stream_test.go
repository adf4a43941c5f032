package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (k *kubelet) exec(t *testing.T, r *runtime.ExecRequest) string {
	t.Helper()
	resp, err := k.Exec(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Url
}

// TestExecStreams: a command's streams reach the client whole and apart, with its exit code, by both protocols.
func TestExecStreams(t *testing.T) {
	d, k := startCRI(t)
	k.pull(t)
	pod := k.podConfig(name(t))
	_, id := k.start(t, pod, k.containerConfig(pod, "exec sleep 1000"))
	script := []string{"sh", "-c", "cat; echo problem >&2; (sleep 3000 &) ; exit 3"}
	input := strings.Repeat("0123456789abcde\n", 1<<16) // more than any buffer between
	url := k.exec(t, &runtime.ExecRequest{ContainerId: id, Cmd: script, Stdin: true, Stdout: true, Stderr: true})
	r := dialStreams(t, url, "stdin", "stdout", "stderr")
	if _, err := io.WriteString(r.all["stdin"], input); err != nil {
		t.Fatal(err)
	}
	r.all["stdin"].Close()
	if out, errs, code := r.result(); out != input || errs != "problem\n" || code != 3 {
		t.Errorf("%d bytes of %d, stderr %q, exit code %d", len(out), len(input), errs, code)
	}
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("a token can be used twice: %s", resp.Status)
	}
	url = k.exec(t, &runtime.ExecRequest{ContainerId: id, Cmd: []string{"sh", "-c", "echo a; echo b >&2; exit 4"}, Stdout: true, Stderr: true})
	if out, errs, code := websocketResult(t, url); out != "a\n" || errs != "b\n" || code != 4 {
		t.Errorf("by websocket: %q, %q, %d", out, errs, code)
	}
	url = k.exec(t, &runtime.ExecRequest{ContainerId: id, Cmd: []string{"/no/such/program"}, Stdout: true})
	if _, _, code := dialStreams(t, url, "stdout").result(); code == 0 {
		t.Error("a program that is not there ran")
	}
	for what, r := range map[string]*runtime.ExecRequest{
		"no streams": {ContainerId: id, Cmd: script}, "no command": {ContainerId: id, Stdout: true}, "a terminal with stderr": {ContainerId: id, Cmd: script, Tty: true, Stdout: true, Stderr: true},
	} {
		if _, err := k.Exec(t.Context(), r); err == nil {
			t.Errorf("%s: it was taken", what)
		}
	}
	_, err = k.Exec(t.Context(), &runtime.ExecRequest{ContainerId: "nothing", Cmd: script, Stdout: true})
	wantCode(t, err, "NotFound")
	k.removeAll(t, d)
}

// TestExecTerminal: a terminal is as large as the client's is by then.
func TestExecTerminal(t *testing.T) {
	d, k := startCRI(t)
	k.pull(t)
	pod := k.podConfig(name(t))
	_, id := k.start(t, pod, k.containerConfig(pod, "exec sleep 1000"))
	url := k.exec(t, &runtime.ExecRequest{ContainerId: id, Cmd: []string{"sh", "-c", `while [ "$(stty size)" != "40 100" ]; do sleep 0.05; done; read l; echo "[$l]"`}, Tty: true, Stdin: true, Stdout: true})
	r := dialStreams(t, url, "stdin", "stdout", "resize")
	if _, err := io.WriteString(r.all["resize"], `{"Width":100,"Height":40}`); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(r.all["stdin"], "hello\n"); err != nil {
		t.Fatal(err)
	}
	if out, _, code := r.result(); !strings.Contains(out, "[hello]\r\n") || code != 0 {
		t.Errorf("%q, exit code %d", out, code)
	}
	k.removeAll(t, d)
}

// TestAttach: clients see what a container writes, whether it goes to a log or not, over the death of its shim, and one gives it its input.
func TestAttach(t *testing.T) {
	d, k := startCRI(t)
	k.pull(t)
	pod := k.podConfig(name(t))
	c := k.containerConfig(pod, `while read l; do echo "out $l"; echo "err $l" >&2; done; exit 5`)
	c.Stdin, c.StdinOnce, c.LogPath = true, true, ""
	_, id := k.start(t, pod, c)
	attach := func(names ...string) *remote {
		t.Helper()
		resp, err := k.Attach(t.Context(), &runtime.AttachRequest{ContainerId: id, Stdin: names[0] == "stdin", Stdout: true, Stderr: true})
		if err != nil {
			t.Fatal(err)
		}
		return dialStreams(t, resp.Url, names...)
	}
	watcher := attach("stdout", "stderr")
	r := attach("stdin", "stdout", "stderr")
	say := func(line string) { // until both are seen to be there
		t.Helper()
		eventually(t, "both clients see "+line, func() bool {
			if _, err := fmt.Fprintln(r.all["stdin"], line); err != nil {
				t.Fatal(err)
			}
			return strings.Contains(r.out[0].String(), "out "+line) && strings.Contains(watcher.out[1].String(), "err "+line)
		})
	}
	say("one")
	killShim(t, d)
	say("two")
	r.all["stdin"].Close()
	if _, errs, code := r.result(); !strings.Contains(errs, "err two\n") || code != 0 {
		t.Errorf("attached: stderr %q, exit code %d", errs, code)
	}
	if out, _, code := watcher.result(); !strings.Contains(out, "out two\n") || code != 0 {
		t.Errorf("watching: stdout %q, exit code %d", out, code)
	}
	if st := k.awaitState(t, id, runtime.ContainerState_CONTAINER_EXITED); st.ExitCode != 5 {
		t.Errorf("the container ended with %d", st.ExitCode)
	}
	k.removeAll(t, d)
}

// TestPortForward: a connection to a pod's own loopback, in its network and in the host's.
func TestPortForward(t *testing.T) {
	d, k := startCRI(t)
	k.pull(t)
	pod := ownNetwork(k.podConfig(name(t)))
	podID, id := k.start(t, pod, k.containerConfig(pod, `exec nc -ll -p 80 -e sh -c 'read l; echo "got $l"'`))
	k.awaitState(t, id, runtime.ContainerState_CONTAINER_RUNNING)
	eventually(t, "the server listens", func() bool {
		r, err := k.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "netstat -lnt | grep -q :80"}})
		return err == nil && r.ExitCode == 0
	})
	resp, err := k.PortForward(t.Context(), &runtime.PortForwardRequest{PodSandboxId: podID})
	if err != nil {
		t.Fatal(err)
	}
	conn := dialSPDY(t, nil, resp.Url, "portforward.k8s.io")
	forward := func(n int, port string) (answer, problem string) {
		t.Helper()
		head := http.Header{}
		for key, value := range map[string]string{"streamType": "error", "port": port, "requestID": fmt.Sprint(n)} {
			head.Set(key, value)
		}
		errs, err := conn.CreateStream(head)
		if err != nil {
			t.Fatal(err)
		}
		errs.Close()
		head.Set("streamType", "data")
		data, err := conn.CreateStream(head)
		if err != nil { // where nobody listens it may be over already
			said, _ := io.ReadAll(errs)
			return err.Error(), string(said)
		}
		fmt.Fprintln(data, "hello")
		data.Close()
		text := make(chan string, 1)
		go func() {
			all, _ := io.ReadAll(data)
			text <- string(all)
		}()
		if said, _ := io.ReadAll(errs); len(said) > 0 {
			return "", string(said)
		}
		return <-text, ""
	}
	for n := range 2 {
		if answer, problem := forward(n, "80"); answer != "got hello\n" || problem != "" {
			t.Errorf("answer %q, %q", answer, problem)
		}
	}
	if _, problem := forward(2, "81"); !strings.Contains(problem, "refused") {
		t.Errorf("a port where nobody listens: %q", problem)
	}
	k.removeAll(t, d)
}
