package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image/hosts"
)

// Fetch streams length bytes of a blob or manifest from offset; length -1 means to the end. A connection that is cut or
// stalls goes on where it was, from another host if need be; the stream ends after exactly the bytes asked for, and a host
// that has more than desc.Size is refused. The bytes are not compared with the digest: the caller does that. Big blobs are
// read in several ranges at a time. The caller closes the stream.
func (r *Remote) Fetch(ctx context.Context, desc ocispec.Descriptor, offset, length int64) (io.ReadCloser, error) {
	end := desc.Size
	if length >= 0 && offset+length < end {
		end = offset + length
	}
	if offset < 0 || offset > end {
		return nil, fmt.Errorf("cannot fetch %s from %d: it has %d bytes", desc.Digest, offset, desc.Size)
	}
	if n := r.streams(); n > 1 && end-offset >= 4*r.config.ChunkSize && !isDocument(desc.MediaType) {
		return r.fetchParallel(ctx, desc, offset, end, n)
	}
	return r.open(ctx, desc, offset, end)
}

func (r *Remote) streams() int {
	if r.config.Streams > 0 {
		return r.config.Streams
	}
	for _, e := range r.endpoints {
		if !hosts.IsLoopback(e.URL.Host) {
			return 3
		}
	}
	return 1
}

func isDocument(mediaType string) bool {
	return strings.HasSuffix(mediaType, ".image.index.v1+json") || strings.Contains(mediaType, ".manifest.")
}

// open begins a stream of bytes offset up to end, so that a blob that cannot be had is an error now.
func (r *Remote) open(ctx context.Context, desc ocispec.Descriptor, offset, end int64) (*stream, error) {
	s := &stream{ctx: ctx, remote: r, desc: desc, offset: offset, end: end, tries: 10 + (end-offset)>>20}
	if offset == end && desc.Size > 0 {
		return s, nil
	}
	return s, s.connect()
}

// stream reads a range over as many connections as it takes. It keeps its context because io.Reader has no place for one.
type stream struct {
	ctx         context.Context
	remote      *Remote
	desc        ocispec.Descriptor
	offset, end int64

	body     io.ReadCloser
	whole    bool  // body answers a request without a range, or ignored it: it goes on to the blob's end
	fruitful bool  // body has delivered something
	failures int   // connections in a row that delivered nothing
	tries    int64 // connections left, a bound on registries that deliver byte by byte
	checked  bool  // looked for bytes after the end
}

func (s *stream) Read(p []byte) (int, error) {
	for {
		if s.offset == s.end {
			return 0, s.finish()
		}
		if s.body == nil {
			if err := s.connect(); err != nil {
				return 0, err
			}
		}
		n, err := s.body.Read(p[:min(int64(len(p)), s.end-s.offset)])
		s.offset += int64(n)
		s.fruitful = s.fruitful || n > 0
		if err != nil && s.offset < s.end {
			if again := s.lost(err); again != nil {
				return n, again
			}
		}
		if n > 0 || len(p) == 0 {
			return n, nil
		}
	}
}

// lost prepares for the next connection after one has ended too early, or answers why there is none.
func (s *stream) lost(err error) error {
	s.Close()
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	s.tries--
	if s.fruitful {
		s.failures = 0
	} else {
		s.failures++
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if _, ok := transient(err); !ok || s.failures > max(0, s.remote.config.Retries) || s.tries <= 0 {
		return fmt.Errorf("cannot read %s beyond byte %d of %d: %w", s.desc.Digest, s.offset, s.desc.Size, explain(err, s.remote.ref.Host))
	}
	if s.failures > 0 {
		return sleep(s.ctx, s.remote.backoff(s.failures-1))
	}
	return nil
}

// finish looks once for bytes after the end, where the body is the blob's last.
func (s *stream) finish() error {
	if s.checked || s.body == nil || !s.whole || s.end != s.desc.Size {
		return io.EOF
	}
	s.checked = true
	var one [1]byte
	if n, _ := s.body.Read(one[:]); n > 0 {
		return mismatch("%s has more than the %d bytes it should have", s.desc.Digest, s.desc.Size)
	}
	return io.EOF
}

func (s *stream) Close() error {
	if s.body == nil {
		return nil
	}
	err := s.body.Close()
	s.body = nil
	return err
}

// connect opens a body at s.offset, beginning with another host after each failure.
func (s *stream) connect() error {
	err := s.remote.each(s.ctx, hosts.Pull, s.failures, s.remote.config.Retries, func(e *endpoint) error {
		return s.connectTo(e)
	})
	if errdefs.IsNotFound(err) && isForeign(s.desc) {
		err = s.connectForeign(err)
	}
	if err != nil {
		return fmt.Errorf("cannot fetch %s: %w", s.desc.Digest, err)
	}
	s.fruitful = false
	return nil
}

func (s *stream) connectTo(e *endpoint) error {
	r := s.remote
	if r.trust != nil && r.trust.isBad(s.desc.Digest, e) {
		return mismatch("%s is not what %s sent for it before", s.desc.Digest, e.URL.Host)
	}
	path := "/blobs/"
	if isDocument(s.desc.MediaType) {
		path = "/manifests/"
	}
	err := s.get(func(ctx context.Context) (*http.Request, error) {
		req, err := r.request(ctx, e, http.MethodGet, path+s.desc.Digest.String(), nil)
		if err == nil && isDocument(s.desc.MediaType) {
			req.Header.Set("Accept", s.desc.MediaType+", */*;q=0.1")
		}
		return req, err
	}, e.do)
	if err == nil && r.trust != nil {
		r.trust.note(s.desc.Digest, e)
	}
	return err
}

// get sends the request that is made for it, with the range that is left to read, and takes the answer as body.
func (s *stream) get(request func(context.Context) (*http.Request, error), do func(*http.Request, ...int) (*http.Response, error)) error {
	// The context ends when nothing has come for too long, and with the body.
	ctx, cancel := context.WithCancelCause(s.ctx)
	req, err := request(ctx)
	if err != nil {
		cancel(err)
		return err
	}
	ranged := s.offset > 0 || s.end < s.desc.Size
	if ranged {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", s.offset, s.end-1))
	}
	resp, err := do(req, http.StatusOK, http.StatusPartialContent)
	if err != nil {
		cancel(err)
		return err
	}
	body := &watched{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, timeout: s.remote.config.StallTimeout}
	s.whole = resp.StatusCode == http.StatusOK
	if err := s.checkResponse(resp, ranged); err != nil {
		body.Close()
		return err
	}
	if s.whole && s.offset > 0 {
		// The host cannot do ranges. What we have already is read again and thrown away.
		if _, err := io.CopyN(io.Discard, body, s.offset); err != nil {
			body.Close()
			return err
		}
	}
	s.body = body
	return nil
}

// checkResponse refuses an answer whose headers contradict desc or the range that was asked for.
func (s *stream) checkResponse(resp *http.Response, ranged bool) error {
	if s.whole {
		if ranged && s.remote.ranges {
			return mismatch("%s: asked for bytes %d-%d, the registry sends all %d", s.desc.Digest, s.offset, s.end-1, s.desc.Size)
		}
		if resp.ContentLength >= 0 && resp.ContentLength != s.desc.Size {
			return mismatch("%s should have %d bytes but the registry sends %d", s.desc.Digest, s.desc.Size, resp.ContentLength)
		}
		return nil
	}
	first, last, total, ok := parseContentRange(resp.Header.Get("Content-Range"))
	switch {
	case !ranged:
		return mismatch("%s: the registry sends a part where all was asked for", s.desc.Digest)
	case !ok || first != s.offset || last < first || last >= s.end || total >= 0 && total != s.desc.Size:
		return mismatch("%s: asked for bytes %d-%d of %d, the registry sends Content-Range %.100q", s.desc.Digest, s.offset, s.end-1, s.desc.Size,
			resp.Header.Get("Content-Range"))
	}
	return nil
}

// parseContentRange reads "bytes first-last/total" (RFC 9110, 14.4); total is -1 for "*".
func parseContentRange(v string) (first, last, total int64, ok bool) {
	v, found := strings.CutPrefix(v, "bytes ")
	span, size, slash := strings.Cut(v, "/")
	a, b, dash := strings.Cut(span, "-")
	if !found || !slash || !dash {
		return 0, 0, 0, false
	}
	total = -1
	okTotal := true
	if size != "*" {
		total, okTotal = parseUint(size)
	}
	first, okFirst := parseUint(a)
	last, okLast := parseUint(b)
	return first, last, total, okFirst && okLast && okTotal
}

// parseUint reads decimal digits and nothing else.
func parseUint(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// watched is a body whose reads end with errStalled when the connection delivers nothing for timeout.
type watched struct {
	io.ReadCloser
	ctx     context.Context
	cancel  context.CancelCauseFunc
	timeout time.Duration
	timer   *time.Timer
}

func (w *watched) Read(p []byte) (int, error) {
	if w.timer == nil {
		w.timer = time.AfterFunc(w.timeout, func() { w.cancel(errStalled) })
	} else {
		w.timer.Reset(w.timeout)
	}
	n, err := w.ReadCloser.Read(p)
	w.timer.Stop()
	if err != nil && context.Cause(w.ctx) == errStalled {
		err = errStalled
	}
	return n, err
}

func (w *watched) Close() error {
	if w.timer != nil {
		w.timer.Stop()
	}
	w.cancel(context.Canceled)
	return w.ReadCloser.Close()
}
