package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/slipwayd/slipway/testsuite/registry"
)

func (k *kubelet) pullImage(t *testing.T, ref string, auth *runtime.AuthConfig) error {
	t.Helper()
	_, err := k.images.PullImage(t.Context(), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}, Auth: auth})
	return err
}

// TestPullsAreSeen: what a kubelet waits for is listed with how far it is, and no more are pulled at a time than the configuration says.
func TestPullsAreSeen(t *testing.T) {
	hub := registry.Start(t)
	built := hub.Push("lib/one:v1", layered())
	hub.Push("lib/two:v1", layered())
	release := make(chan struct{})
	hub.Fault(registry.Match{Method: "GET", Path: "lib/one/blobs/", Digest: built.Layers[1].Digest, Times: 1}, registry.Hang(100_000, release))
	d, k := startCRIWith(t, func(d *daemon) { d.config += "parallel_pulls = 1\n" })
	listed := func() []string {
		var pulls []struct {
			Ref         string
			Done, Total int64
		}
		if err := json.Unmarshal([]byte(d.slipway(t, "--namespace", "k8s.io", "image", "pulls", "--format", "json")), &pulls); err != nil {
			t.Fatal(err)
		}
		var refs []string
		for _, p := range pulls {
			if p.Done > 0 && p.Done < p.Total {
				refs = append(refs, p.Ref)
			}
		}
		return refs
	}
	one, two := hub.Host()+"/lib/one:v1", hub.Host()+"/lib/two:v1"
	pulled := make(chan error, 2)
	go func() { pulled <- k.pullImage(t, one, nil) }()
	eventually(t, "the first pull is listed", func() bool { l := listed(); return len(l) == 1 && l[0] == one })
	go func() { pulled <- k.pullImage(t, two, nil) }()
	if table := d.slipway(t, "--namespace", "k8s.io", "image", "pulls"); !strings.Contains(table, one) || strings.Contains(table, two) {
		t.Errorf("listed are\n%s", table)
	}
	if l := d.slipway(t, "image", "pulls", "--format", "json"); strings.TrimSpace(l) != "[]" {
		t.Errorf("in another namespace: %s", l)
	}
	close(release)
	for range 2 {
		if err := <-pulled; err != nil {
			t.Error(err)
		}
	}
	if l := listed(); len(l) > 0 {
		t.Errorf("after their end: %q", l)
	}
}

// TestPullEvents: how far a pull is that a kubelet waits for goes to who listens for events, which ctr can show too.
func TestPullEvents(t *testing.T) {
	hub := registry.Start(t)
	built := hub.Push("lib/one:v1", layered())
	hub.Fault(registry.Match{Method: "GET", Path: "lib/one/blobs/", Digest: built.Layers[1].Digest, Times: 1}, registry.Slow(100_000, 100*time.Millisecond))
	d, k := startCRI(t)
	var shown []*listener
	for program, args := range map[string][]string{
		filepath.Join(binaries, "slipway"): {"--address", d.address, "--namespace", "k8s.io", "events", "topic~=^/images/pull/"},
		ctr2(t):                            {"--address", d.address, "events", "topic~=^/images/pull/"},
	} {
		shown = append(shown, listen(t, program, args...))
	}
	eventually(t, "both listen", func() bool {
		_ = k.pullImage(t, hub.Host()+"/lib/nothing:v1", nil)
		return strings.Contains(shown[0].text(), "/images/pull/failed") && strings.Contains(shown[1].text(), "/images/pull/failed")
	})
	one := hub.Host() + "/lib/one:v1"
	if err := k.pullImage(t, one, nil); err != nil {
		t.Fatal(err)
	}
	for _, l := range shown {
		eventually(t, "the pull has ended", func() bool { return strings.Contains(l.text(), "/images/pull/done") })
		var topics []string
		for line := range strings.Lines(l.text()) {
			if strings.Contains(line, one) {
				_, topic, _ := strings.Cut(line, "/images/pull/")
				topics = append(topics, strings.Fields(topic)[0])
			}
		}
		if n := len(topics); n < 3 || topics[0] != "begin" || topics[1] != "progress" || topics[n-1] != "done" {
			t.Errorf("shown is %q:\n%s", topics, l.text())
		}
	}
}

// listener is a program that shows events until the test ends.
type listener struct {
	mu  sync.Mutex
	out strings.Builder
}

func (l *listener) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

func (l *listener) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.String()
}

func listen(t *testing.T, program string, args ...string) *listener {
	t.Helper()
	l := &listener{}
	cmd := exec.Command(program, args...)
	cmd.Stdout = l
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return l
}

// TestStuckPull: a pull that something comes for all the time, but too little, is given up, and the next goes on.
func TestStuckPull(t *testing.T) {
	hub := registry.Start(t)
	built := hub.Push("lib/layered:v1", layered())
	var well atomic.Bool
	trickle := registry.Slow(100, 20*time.Millisecond)
	hub.Fault(registry.Match{Method: "GET", Digest: built.Layers[1].Digest}, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if well.Load() {
			next.ServeHTTP(w, r)
		} else {
			trickle(w, r, next)
		}
	})
	_, k := startCRIWith(t, func(d *daemon) { d.config += "pull_timeout = \"1s\"\npull_timeout_bytes = \"1MiB\"\n" })
	err := k.pullImage(t, hub.Host()+"/lib/layered:v1", nil)
	wantCode(t, err, "Unavailable")
	if err == nil || !strings.Contains(err.Error(), "given up") {
		t.Errorf("the error does not say why: %v", err)
	}
	well.Store(true)
	if err := k.pullImage(t, hub.Host()+"/lib/layered:v1", nil); err != nil {
		t.Errorf("the next pull: %v", err)
	}
}

// TestCredentials: they come with the call, from docker's configuration or from programs as kubelet has them.
func TestCredentials(t *testing.T) {
	const user, password = "me", "secret"
	start := func(t *testing.T) (*registry.Registry, string) {
		hub := registry.Start(t)
		hub.Push("lib/layered:v1", layered())
		hub.RequireBasic(registry.Basic{Username: user, Password: password})
		return hub, hub.Host() + "/lib/layered:v1"
	}
	t.Run("of the call", func(t *testing.T) {
		_, ref := start(t)
		_, k := startCRI(t)
		for _, auth := range []*runtime.AuthConfig{nil, {Username: user, Password: "wrong"}, {Username: user, Password: password, ServerAddress: "elsewhere.example"}} {
			if err := k.pullImage(t, ref, auth); err == nil || status.Code(err) == codes.Unknown || status.Code(err) == codes.Internal {
				t.Errorf("with %v: %v", auth, err)
			} else if strings.Contains(err.Error(), "wrong") {
				t.Errorf("the error tells the password: %v", err)
			}
		}
		if err := k.pullImage(t, ref, &runtime.AuthConfig{Auth: base64.StdEncoding.EncodeToString([]byte(user + ":" + password))}); err != nil {
			t.Error(err)
		}
	})
	t.Run("of docker's configuration", func(t *testing.T) {
		hub, ref := start(t)
		_, k := startCRIWith(t, func(d *daemon) {
			text := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, hub.Host(), base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
			writeFile(t, filepath.Join(d.dir, "docker/config.json"), text, 0o600)
			d.environment = append(d.environment, "DOCKER_CONFIG="+filepath.Join(d.dir, "docker"))
		})
		if err := k.pullImage(t, ref, nil); err != nil {
			t.Error(err)
		}
	})
	t.Run("of a program", func(t *testing.T) {
		hub, ref := start(t)
		_, k := startCRIWith(t, func(d *daemon) {
			answer := fmt.Sprintf(`{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","auth":{%q:{"username":%q,"password":%q}}}`, hub.Host(), user, password)
			program := filepath.Join(d.dir, "provider")
			writeFile(t, program, "#!/bin/sh\ngrep -q CredentialProviderRequest && echo '"+answer+"'\n", 0o755)
			d.config = fmt.Sprintf("[[registry.credential_providers]]\nprogram = %q\nmatch = [%q]\n", program, hub.Host()) + d.config
		})
		if err := k.pullImage(t, ref, nil); err != nil {
			t.Error(err)
		}
	})
}

func writeFile(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}
