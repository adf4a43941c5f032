package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// Provider is a program that knows the credentials of some registries, in the protocol of kubelet's plugins
// (k8s.io/kubelet/pkg/apis/credentialprovider/v1): a CredentialProviderRequest in JSON on its input, a CredentialProviderResponse on its output.
type Provider struct {
	Program string
	Args    []string
	Env     []string // NAME=VALUE, besides the daemon's
	// Match are the registries it knows, as in kubelet's matchImages: HOST or HOST:PORT, where * stands for any part of a name between dots. A path
	// after it is not looked at.
	Match []string
	// CacheFor is how long an answer is good that does not say it.
	CacheFor time.Duration
}

const (
	providerTimeout = time.Minute
	providerOutput  = 1 << 20 // bytes of an answer
	providerAPI     = "credentialprovider.kubelet.k8s.io/v1"
)

// Providers asks the first program that knows a registry, and otherwise where none does. Answers are kept for as long as they say.
func Providers(all []Provider, otherwise CredentialFunc) CredentialFunc {
	p := &providers{all: all, kept: map[string]keptCredential{}}
	return func(ctx context.Context, host string) (Credential, error) {
		for _, one := range all {
			if slices.ContainsFunc(one.Match, func(pattern string) bool { return matchesHost(pattern, host) }) {
				return p.ask(ctx, one, host)
			}
		}
		if otherwise == nil {
			return Credential{}, nil
		}
		return otherwise(ctx, host)
	}
}

type providers struct {
	all  []Provider
	mu   sync.Mutex // held while a program runs too: pulls that need the same answer share it
	kept map[string]keptCredential
}

type keptCredential struct {
	Credential
	until time.Time
}

// providerRequest and providerResponse are the protocol's messages.
type providerRequest struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Image      string `json:"image"`
}

type providerResponse struct {
	APIVersion    string `json:"apiVersion"`
	Kind          string `json:"kind"`
	CacheDuration string `json:"cacheDuration"`
	Auth          map[string]struct {
		Username string `json:"username"`
		Password string `json:"password"`
	} `json:"auth"`
}

func (p *providers) ask(ctx context.Context, one Provider, host string) (Credential, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k, ok := p.kept[host]; ok && time.Now().Before(k.until) {
		return k.Credential, nil
	}
	resp, err := one.run(ctx, host)
	if err != nil {
		return Credential{}, fmt.Errorf("cannot get the credential for %s from %s: %w", host, one.Program, err)
	}
	k := keptCredential{Credential: resp.pick(host)}
	life := one.CacheFor
	if d, err := time.ParseDuration(resp.CacheDuration); err == nil {
		life = d
	}
	k.until = time.Now().Add(life)
	p.kept[host] = k
	return k.Credential, nil
}

func (one Provider) run(ctx context.Context, host string) (providerResponse, error) {
	var resp providerResponse
	ctx, cancel := context.WithTimeout(ctx, providerTimeout)
	defer cancel()
	req, err := json.Marshal(providerRequest{APIVersion: providerAPI, Kind: "CredentialProviderRequest", Image: host})
	if err != nil {
		return resp, err
	}
	cmd := exec.CommandContext(ctx, one.Program, one.Args...)
	var out, complaint bytes.Buffer
	cmd.Stdin, cmd.Env, cmd.WaitDelay = bytes.NewReader(req), append(os.Environ(), one.Env...), time.Second
	cmd.Stdout, cmd.Stderr = &atMost{&out, providerOutput}, &atMost{&complaint, 4 << 10}
	if err := cmd.Run(); err != nil {
		return resp, fmt.Errorf("%w: %s: %w", err, strings.TrimSpace(complaint.String()), errdefs.ErrUnavailable)
	}
	err = json.Unmarshal(out.Bytes(), &resp)
	if err == nil && (resp.APIVersion != providerAPI || resp.Kind != "CredentialProviderResponse") {
		err = fmt.Errorf("it is a %.50q of %.80q", resp.Kind, resp.APIVersion)
	}
	if err != nil {
		return resp, fmt.Errorf("its answer is not understood: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return resp, nil
}

// pick answers the entry that says most about host; an anonymous one when none is for it.
func (r providerResponse) pick(host string) Credential {
	best := ""
	for pattern := range r.Auth {
		if matchesHost(pattern, host) && (len(pattern) > len(best) || len(pattern) == len(best) && pattern > best) {
			best = pattern
		}
	}
	a := r.Auth[best]
	return Credential{Username: a.Username, Password: a.Password}
}

// matchesHost follows kubelet's rule: as many parts, each with the same letters or a pattern for them, and the port when one is named.
func matchesHost(pattern, host string) bool {
	if _, rest, ok := strings.Cut(pattern, "://"); ok {
		pattern = rest
	}
	pattern, _, _ = strings.Cut(pattern, "/")
	name, port := splitPort(pattern)
	gotName, gotPort := splitPort(host)
	if name == "" || port != "" && port != gotPort {
		return false
	}
	want, got := strings.Split(name, "."), strings.Split(gotName, ".")
	if len(want) != len(got) {
		return false
	}
	for i := range want {
		if ok, err := path.Match(want[i], got[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

func splitPort(s string) (name, port string) {
	if h, p, err := net.SplitHostPort(s); err == nil {
		return h, p
	}
	return s, ""
}

// atMost is a writer that fails once it has taken its fill.
type atMost struct {
	w    io.Writer
	left int
}

func (a *atMost) Write(p []byte) (int, error) {
	if a.left -= len(p); a.left < 0 {
		return 0, errors.New("it says too much")
	}
	return a.w.Write(p)
}
