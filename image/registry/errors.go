package registry

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// statusError is an answer that was not what was asked for.
type statusError struct {
	method, url, host string
	status            int
	detail            string        // what the registry said, bounded
	after             time.Duration // Retry-After, 0 when there was none
}

func (e *statusError) Error() string {
	s := fmt.Sprintf("%s %s: %d %s", e.method, e.url, e.status, http.StatusText(e.status))
	if e.detail != "" {
		s += ": " + e.detail
	}
	switch e.status {
	case http.StatusUnauthorized:
		s += fmt.Sprintf(" (there is no such repository, or it needs a login: docker login %s)", e.host)
	case http.StatusForbidden:
		s += " (this login may not do that)"
	}
	return s
}

func (e *statusError) Unwrap() error {
	switch {
	case e.status == http.StatusUnauthorized:
		return errdefs.ErrUnauthenticated
	case e.status == http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	case e.status == http.StatusNotFound, e.status == http.StatusGone:
		return errdefs.ErrNotFound
	case e.status == http.StatusRequestedRangeNotSatisfiable:
		return errdefs.ErrOutOfRange
	case e.status == http.StatusTooManyRequests:
		return errdefs.ErrResourceExhausted
	case e.status >= 500, e.status == http.StatusRequestTimeout:
		return errdefs.ErrUnavailable
	case e.status == http.StatusBadRequest:
		return errdefs.ErrInvalidArgument
	}
	return errdefs.ErrUnknown
}

// RetryAfter is how long the registry asks us to wait, 0 when it does not.
func (e *statusError) RetryAfter() time.Duration { return e.after }

// newStatusError reads the error of a response and closes it.
func newStatusError(resp *http.Response) error {
	defer resp.Body.Close()
	e := &statusError{method: resp.Request.Method, url: resp.Request.URL.Redacted(), host: resp.Request.URL.Host, status: resp.StatusCode}
	if i := strings.IndexByte(e.url, '?'); i >= 0 {
		e.url = e.url[:i] // redirects carry signatures there
	}
	var body struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 8<<10))
	if json.Unmarshal(data, &body) == nil && len(body.Errors) > 0 {
		e.detail = fmt.Sprintf("%.200s: %.500q", printable(body.Errors[0].Code), body.Errors[0].Message)
	}
	e.after = retryAfter(resp.Header.Get("Retry-After"), time.Now())
	return e
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
}

// retryAfter reads seconds or a date (RFC 9110, 10.2.3).
func retryAfter(v string, now time.Time) time.Duration {
	if v == "" {
		return 0
	}
	if n, err := strconv.ParseInt(v, 10, 32); err == nil {
		return max(0, time.Duration(n)*time.Second)
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, t.Sub(now))
	}
	return 0
}

// errMismatch is an answer that contradicts what the registry or the digest said before. Another host may do better, the
// same one will not.
type errMismatch struct{ error }

func (e errMismatch) Unwrap() []error { return []error{e.error, errdefs.ErrFailedPrecondition} }

func mismatch(format string, args ...any) error { return errMismatch{fmt.Errorf(format, args...)} }

// errStalled ends a request that delivered nothing for too long.
var errStalled = fmt.Errorf("the connection delivered nothing for too long: %w", errdefs.ErrUnavailable)

// transient reports whether the same request may succeed later, and how long the registry asks us to wait.
func transient(err error) (after time.Duration, ok bool) {
	var status *statusError
	var token *errcode.ErrorResponse // of the server that gives tokens
	var bad errMismatch
	var cert *tls.CertificateVerificationError
	var header tls.RecordHeaderError
	var dns *net.DNSError
	var network net.Error
	switch {
	case errors.As(err, &status):
		return status.after, passes(status.status)
	case errors.As(err, &token):
		return 0, passes(token.StatusCode)
	case errors.As(err, &bad), errors.As(err, &cert), errors.As(err, &header), errors.Is(err, context.Canceled):
		return 0, false
	case errors.As(err, &dns):
		return 0, !dns.IsNotFound
	case errors.Is(err, errStalled), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.As(err, &network):
		return 0, true
	}
	return 0, isReset(err)
}

func passes(status int) bool {
	return status >= 500 && status != http.StatusNotImplemented || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout
}

// isReset finds the errors of connections cut in the middle that net/http does not type.
func isReset(err error) bool {
	s := err.Error()
	for _, part := range []string{"connection reset", "broken pipe", "server closed idle connection", "http2: server sent GOAWAY", "stream error", "client connection lost", "transport connection broken"} {
		if strings.Contains(s, part) {
			return true
		}
	}
	return false
}

// explain adds what to do about failures to connect, and a kind.
func explain(err error, host string) error {
	var network net.Error
	var token *errcode.ErrorResponse
	switch {
	case errors.As(err, &token) && (token.StatusCode == http.StatusUnauthorized || token.StatusCode == http.StatusForbidden):
		return fmt.Errorf("%w (is the login right? docker login %s): %w", err, host, errdefs.ErrUnauthenticated)
	case errors.As(err, &token):
		return fmt.Errorf("%w: %w", err, (&statusError{status: token.StatusCode}).Unwrap())
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%w (%s speaks plain HTTP: write http:// in its hosts.toml, or allow plain HTTP): %w", err, host, errdefs.ErrFailedPrecondition)
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return fmt.Errorf("%w (give its certificate authority as ca in hosts.toml): %w", err, errdefs.ErrFailedPrecondition)
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return fmt.Errorf("%w (%s needs a login: docker login %s): %w", err, host, host, errdefs.ErrUnauthenticated)
	case errors.As(err, &network), isReset(err):
		return fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	return err
}
