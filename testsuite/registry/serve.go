package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Request is one request as it was answered.
type Request struct {
	Method string
	Path   string        // with query
	Digest digest.Digest // of the blob or manifest in the path, empty for others
	Header http.Header
	Status int   // 0 when the connection was cut before an answer
	Bytes  int64 // of the answer's body
	// Storage is true when the request came to the second host that Redirect sends clients to.
	Storage bool
}

// Match picks requests; zero fields match all.
type Match struct {
	Method string
	Path   string // regular expression, matched anywhere in the path (without query)
	Digest digest.Digest
	Skip   int // how many matching requests pass first
	Times  int // how many after those are hit; 0 for all. Neither Skip nor Times count for Count
}

func (m Match) matches(method, p string) bool {
	return (m.Method == "" || m.Method == method) &&
		(m.Digest == "" || m.Digest == digestIn(p)) &&
		(m.Path == "" || regexp.MustCompile(m.Path).MatchString(p))
}

// digestIn is the digest that a path ends with, empty when it does not.
func digestIn(p string) digest.Digest {
	p, _, _ = strings.Cut(p, "?")
	if dgst := digest.Digest(path.Base(p)); dgst.Validate() == nil {
		return dgst
	}
	return ""
}

// fault is a Fault set on the registry.
type fault struct {
	Match
	seen int
	do   Fault
}

// Fault makes do answer the requests that match, from now on. Of several that match a request, the one set last counts.
func (r *Registry) Fault(m Match, do Fault) {
	regexp.MustCompile(m.Path) // a mistake in the test shows here
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, &fault{Match: m, do: do})
}

// Heal removes all faults.
func (r *Registry) Heal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = nil
}

// Requests lists what was asked so far, in order. Status and Bytes are set when an answer has ended.
func (r *Registry) Requests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Request, len(r.requests))
	for i, req := range r.requests {
		out[i] = *req
	}
	return out
}

// Count is how many requests so far match.
func (r *Registry) Count(m Match) int {
	n := 0
	for _, req := range r.Requests() {
		p, _, _ := strings.Cut(req.Path, "?")
		if m.matches(req.Method, p) {
			n++
		}
	}
	return n
}

// Forget empties the list of requests.
func (r *Registry) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = nil
}

// ServeHTTP implements http.Handler: faults come first, then authentication, then content.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.observe(w, req, false, http.HandlerFunc(r.authenticate))
}

// observe answers a request through the fault that matches it, or by h, and writes it down.
func (r *Registry) observe(w http.ResponseWriter, req *http.Request, storage bool, h http.Handler) {
	cw := &countingWriter{ResponseWriter: w}
	entry := &Request{
		Method:  req.Method,
		Path:    req.URL.RequestURI(),
		Digest:  digestIn(req.URL.Path),
		Header:  req.Header.Clone(),
		Storage: storage,
	}
	r.mu.Lock()
	r.requests = append(r.requests, entry) // now: a client that has its answer may look
	r.mu.Unlock()
	defer func() { // also when a fault panics to cut the connection
		r.mu.Lock()
		defer r.mu.Unlock()
		entry.Status, entry.Bytes = cw.status, cw.bytes
	}()
	if do := r.faultFor(req); do != nil {
		do(cw, req, h)
		return
	}
	h.ServeHTTP(cw, req)
}

// faultFor picks the fault for a request, if any, and counts it against all that match.
func (r *Registry) faultFor(req *http.Request) Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	var do Fault
	for _, f := range r.faults {
		if !f.matches(req.Method, req.URL.Path) {
			continue
		}
		f.seen++
		if f.seen > f.Skip && (f.Times == 0 || f.seen <= f.Skip+f.Times) {
			do = f.do
		}
	}
	return do
}

func (r *Registry) authenticate(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	auth := r.auth
	r.mu.Unlock()
	if auth != nil && !auth.allow(w, req) {
		return
	}
	r.content(w, req)
}

func (r *Registry) content(w http.ResponseWriter, req *http.Request) {
	dgst := digestIn(req.URL.Path)
	if req.Method == http.MethodGet && dgst != "" && path.Base(path.Dir(req.URL.Path)) == "blobs" {
		r.serveBlob(w, req, dgst)
		return
	}
	if req.Method == http.MethodPut && path.Base(path.Dir(req.URL.Path)) == "manifests" {
		r.noteSubject(w, req)
	}
	r.mu.Lock()
	refuse := r.noReferrers && path.Base(path.Dir(req.URL.Path)) == "referrers"
	r.mu.Unlock()
	if refuse {
		writeError(w, http.StatusNotFound, "UNSUPPORTED", "no referrers here")
		return
	}
	r.library.ServeHTTP(w, req)
}

// noteSubject answers with OCI-Subject a manifest that has one, as a registry with the referrers API does (distribution-spec 1.1,
// "Pushing Manifests with Subject").
func (r *Registry) noteSubject(w http.ResponseWriter, req *http.Request) {
	data, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	req.Body = io.NopCloser(bytes.NewReader(data))
	var m struct {
		Subject *struct {
			Digest string `json:"digest"`
		} `json:"subject"`
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if json.Unmarshal(data, &m) == nil && m.Subject != nil && !r.noReferrers {
		w.Header().Set("OCI-Subject", m.Subject.Digest)
	}
}

// serveBlob answers whole blobs and ranges.
func (r *Registry) serveBlob(w http.ResponseWriter, req *http.Request, dgst digest.Digest) {
	data, ok := r.blobs.get(dgst)
	if !ok {
		writeError(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", dgst.String())
	w.Header().Set("ETag", `"`+dgst.String()+`"`)
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(data))
}

// writeError answers in the form of the distribution spec, "Error Codes".
func writeError(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
}

// countingWriter remembers the status and counts the bytes of an answer.
type countingWriter struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *countingWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *countingWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController flush.
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
