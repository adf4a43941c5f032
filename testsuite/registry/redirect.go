package registry

import (
	"fmt"
	"net"
	"net/http"
	"sync"

	"github.com/opencontainers/go-digest"
)

// storage is the second host that blobs are redirected to.
type storage struct {
	once sync.Once
	host string
	err  error

	mu   sync.Mutex
	uses map[string]int // left, by signature
}

// Redirect answers blob GETs with 307 to another host (localhost instead of 127.0.0.1, another port), at a URL that is good
// for uses requests and 403 after that; 0 for any number. Requests there are listed with Storage set, and faults and
// counts apply to them by their path, /storage/<digest>.
func (r *Registry) Redirect(uses int) Fault {
	return func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		dgst := digestIn(req.URL.Path)
		if dgst == "" {
			next.ServeHTTP(w, req)
			return
		}
		url, err := r.storageURL(dgst, uses)
		if err != nil {
			writeError(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
			return
		}
		w.Header().Set("Location", url)
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
}

func (r *Registry) storageURL(dgst digest.Digest, uses int) (string, error) {
	s := &r.storage
	s.once.Do(func() {
		s.uses = make(map[string]int)
		s.host, s.err = r.serve("127.0.0.1:0", http.HandlerFunc(r.serveStorage), nil)
	})
	if s.err != nil {
		return "", s.err
	}
	_, port, err := net.SplitHostPort(s.host)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	signature := fmt.Sprintf("s%d", len(s.uses)+1)
	s.uses[signature] = uses
	if uses == 0 {
		s.uses[signature] = -1
	}
	return fmt.Sprintf("http://localhost:%s/storage/%s?signature=%s", port, dgst, signature), nil
}

func (r *Registry) serveStorage(w http.ResponseWriter, req *http.Request) {
	r.observe(w, req, true, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "" {
			// As S3 does: a signature and a header are one too many.
			writeError(w, http.StatusBadRequest, "InvalidArgument", "only one auth mechanism allowed")
			return
		}
		if !r.storage.use(req.URL.Query().Get("signature")) {
			writeError(w, http.StatusForbidden, "AccessDenied", "request has expired")
			return
		}
		r.serveBlob(w, req, digestIn(req.URL.Path))
	}))
}

func (s *storage) use(signature string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	left, ok := s.uses[signature]
	if !ok || left == 0 {
		return false
	}
	s.uses[signature] = left - 1
	return true
}
