package registry

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// authenticator answers 401, or lets a request pass.
type authenticator interface {
	allow(w http.ResponseWriter, r *http.Request) bool
}

// Basic asks for a user and password on every request.
type Basic struct{ Username, Password string }

// RequireBasic turns basic authentication on.
func (r *Registry) RequireBasic(b Basic) { r.setAuth(b) }

// AllowAll turns authentication off.
func (r *Registry) AllowAll() { r.setAuth(nil) }

func (r *Registry) setAuth(a authenticator) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auth = a
}

func (b Basic) allow(w http.ResponseWriter, r *http.Request) bool {
	user, password, _ := r.BasicAuth()
	if user == b.Username && password == b.Password {
		return true
	}
	w.Header().Set("Www-Authenticate", `Basic realm="registry"`)
	writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	return false
}

// Token asks for bearer tokens, as "Token Authentication Specification" of distribution describes it; the tokens come from
// /token of the same registry.
type Token struct {
	Username, Password string // both empty: anybody gets a token
	Uses               int    // how many requests a token is good for; 0 for any number
	Realm              string // where clients are sent for tokens, which has to ask /token; empty for that itself
}

// RequireToken turns token authentication on.
func (r *Registry) RequireToken(t Token) {
	r.setAuth(&tokens{Token: t, issued: make(map[string]*token)})
}

type tokens struct {
	Token
	mu     sync.Mutex
	issued map[string]*token
}

type token struct {
	scopes string
	uses   int
}

func (t *tokens) allow(w http.ResponseWriter, r *http.Request) bool {
	if r.URL.Path == "/token" {
		t.issue(w, r)
		return false
	}
	scope := wantedScope(r)
	reason := t.check(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), scope)
	if reason == "" {
		return true
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	realm := t.Realm
	if realm == "" {
		realm = scheme + "://" + r.Host + "/token"
	}
	challenge := fmt.Sprintf(`Bearer realm=%q,service="registry.test"`, realm)
	if scope != "" {
		challenge += fmt.Sprintf(`,scope=%q`, scope)
	}
	if reason != "no token" {
		challenge += fmt.Sprintf(`,error=%q`, reason)
	}
	w.Header().Set("Www-Authenticate", challenge)
	writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	return false
}

// wantedScope is what a token must allow: "" for the endpoint itself.
func wantedScope(r *http.Request) string {
	p := strings.TrimPrefix(r.URL.Path, "/v2/")
	for _, part := range []string{"/manifests/", "/blobs/", "/tags/", "/referrers/"} {
		repo, _, ok := strings.Cut(p, part)
		if !ok {
			continue
		}
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			return "repository:" + repo + ":pull"
		}
		return "repository:" + repo + ":pull,push"
	}
	return ""
}

// check answers "" for a token that allows scope.
func (t *tokens) check(value, scope string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	tok, ok := t.issued[value]
	switch {
	case value == "":
		return "no token"
	case !ok:
		return "invalid_token"
	case scope != "" && !grants(tok.scopes, scope):
		return "insufficient_scope"
	}
	if t.Uses > 0 && tok.uses >= t.Uses {
		return "invalid_token"
	}
	tok.uses++
	return ""
}

// grants says whether one of the scopes, divided by blanks, names the repository and all the actions of want.
func grants(scopes, want string) bool {
	wantRepo, wantActions := splitScope(want)
	for _, scope := range strings.Fields(scopes) {
		repo, actions := splitScope(scope)
		if repo != wantRepo {
			continue
		}
		missing := false
		for _, action := range strings.Split(wantActions, ",") {
			missing = missing || !strings.Contains(","+actions+",", ","+action+",")
		}
		if !missing {
			return true
		}
	}
	return false
}

func splitScope(scope string) (name, actions string) {
	i := strings.LastIndexByte(scope, ':')
	return scope[:max(i, 0)], scope[i+1:]
}

// issue answers GET /token with basic authentication, and POST /token (OAuth 2) with a password.
func (t *tokens) issue(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		writeError(w, http.StatusBadRequest, "UNSUPPORTED", err.Error())
		return
	}
	user, password, _ := r.BasicAuth()
	if r.Method == http.MethodPost {
		user, password = r.PostForm.Get("username"), r.PostForm.Get("password")
	}
	if user != t.Username || password != t.Password {
		writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "incorrect username or password")
		return
	}
	t.mu.Lock()
	value := fmt.Sprintf("token-%d", len(t.issued)+1)
	t.issued[value] = &token{scopes: strings.Join(r.Form["scope"], " ")}
	t.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"token": value, "access_token": value, "expires_in": 300})
}
