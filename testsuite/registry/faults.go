package registry

import (
	"net/http"
	"strconv"
	"time"
)

// Fault answers a request badly. next answers it well.
type Fault func(w http.ResponseWriter, r *http.Request, next http.Handler)

// Status answers with an error status, such as 404, 500 or 503, and a body as the distribution spec wants it.
func Status(status int) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		code := map[int]string{401: "UNAUTHORIZED", 403: "DENIED", 404: "NAME_UNKNOWN", 429: "TOOMANYREQUESTS"}[status]
		if code == "" {
			code = "UNKNOWN"
		}
		writeError(w, status, code, "a fault of the test")
	}
}

// TooManyRequests answers 429 with Retry-After in seconds.
func TooManyRequests(retryAfter int) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
		Status(http.StatusTooManyRequests)(w, r, next)
	}
}

// Unavailable answers 503 with Retry-After in seconds.
func Unavailable(retryAfter int) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
		Status(http.StatusServiceUnavailable)(w, r, next)
	}
}

// Cut breaks the connection after n bytes of the body. With n of 0 the header still comes.
func Cut(n int64) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&cutWriter{ResponseWriter: w, left: n}, r)
		breakConnection(w) // the body was no longer than n
	}
}

// Drop breaks the connection without any answer.
func Drop() Fault {
	return func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }
}

// breakConnection sends what is written so far and ends the connection.
func breakConnection(w http.ResponseWriter) {
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

type cutWriter struct {
	http.ResponseWriter
	left int64
}

func (w *cutWriter) Write(p []byte) (int, error) {
	if int64(len(p)) < w.left {
		w.left -= int64(len(p))
		return w.ResponseWriter.Write(p)
	}
	_, _ = w.ResponseWriter.Write(p[:w.left])
	breakConnection(w.ResponseWriter)
	return 0, nil
}

// edit lets change rewrite an answer; what it leaves in the recorder is sent, with a Content-Length that fits the body.
func edit(change func(rec *recorder)) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := &recorder{header: http.Header{}}
		next.ServeHTTP(rec, r)
		change(rec)
		for k, v := range rec.header {
			w.Header()[k] = v
		}
		if r.Method != http.MethodHead {
			w.Header().Set("Content-Length", strconv.Itoa(rec.body.Len()))
		}
		w.WriteHeader(rec.status)
		_, _ = w.Write(rec.body.Bytes()) // a client that is gone is none of the fault's business
	}
}

// Corrupt flips all bits of the body's byte at offset, or of its last one when it is shorter.
func Corrupt(offset int) Fault {
	return edit(func(rec *recorder) {
		if body := rec.body.Bytes(); len(body) > 0 {
			body[min(offset, len(body)-1)] ^= 0xff
		}
	})
}

// Replace sends another body with its right length.
func Replace(body []byte) Fault {
	return edit(func(rec *recorder) {
		rec.body.Reset()
		rec.body.Write(body)
	})
}

// Shorten leaves n bytes out at the end, with a Content-Length that hides it; of a 206 the Content-Range stays as it was.
func Shorten(n int) Fault {
	return edit(func(rec *recorder) { rec.body.Truncate(max(0, rec.body.Len()-n)) })
}

// Pad adds n bytes at the end, with a Content-Length that hides it.
func Pad(n int) Fault {
	return edit(func(rec *recorder) { rec.body.Write(make([]byte, n)) })
}

// NoLength sends the body without Content-Length, in chunks.
func NoLength() Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&editWriter{ResponseWriter: w, edit: func(int) { w.Header().Del("Content-Length") }}, r)
	}
}

// Endless sends the body without a length and then zeros until the client has enough.
func Endless() Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		NoLength()(w, r, next)
		zeros := make([]byte, 64<<10)
		for r.Context().Err() == nil {
			if _, err := w.Write(zeros); err != nil {
				return
			}
		}
	}
}

// IgnoreRange answers 200 with the whole body to a request for a range.
func IgnoreRange() Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		r = r.Clone(r.Context())
		r.Header.Del("Range")
		next.ServeHTTP(w, r)
	}
}

// NoRanges answers 416 to a request for a range, and others well.
func NoRanges() Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Header.Get("Range") != "" {
			writeError(w, http.StatusRequestedRangeNotSatisfiable, "RANGE_INVALID", "no ranges here")
			return
		}
		next.ServeHTTP(w, r)
	}
}

// ContentRange lies about which range a 206 holds, such as "bytes 0-9/10".
func ContentRange(value string) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&editWriter{ResponseWriter: w, edit: func(status int) {
			if status == http.StatusPartialContent {
				w.Header().Set("Content-Range", value)
			}
		}}, r)
	}
}

// SetHeader answers well but for one header; value "" leaves it out.
func SetHeader(name, value string) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&editWriter{ResponseWriter: w, edit: func(int) {
			if value == "" {
				w.Header().Del(name)
			} else {
				w.Header().Set(name, value)
			}
		}}, r)
	}
}

// editWriter changes the header just before it is sent.
type editWriter struct {
	http.ResponseWriter
	edit func(status int)
	done bool
}

func (w *editWriter) WriteHeader(status int) {
	if !w.done {
		w.done = true
		w.edit(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *editWriter) Write(p []byte) (int, error) {
	if !w.done {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}

// Slow sends the body in pieces of n bytes with a pause after each.
func Slow(n int, pause time.Duration) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := &recorder{header: http.Header{}}
		next.ServeHTTP(rec, r)
		for k, v := range rec.header {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.status)
		for chunk := rec.body.Next(n); len(chunk) > 0; chunk = rec.body.Next(n) {
			if _, err := w.Write(chunk); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			select {
			case <-time.After(pause):
			case <-r.Context().Done():
				return
			}
		}
	}
}

// Hang sends n bytes of the answer's body (the header too when n is above 0) and then nothing until the client goes away
// or until is closed; then the connection breaks. until may be nil.
func Hang(n int64, until <-chan struct{}) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if n > 0 {
			rec := &recorder{header: http.Header{}}
			next.ServeHTTP(rec, r)
			for k, v := range rec.header {
				w.Header()[k] = v
			}
			w.WriteHeader(rec.status)
			_, _ = w.Write(rec.body.Next(int(n)))
			_ = http.NewResponseController(w).Flush()
		}
		select {
		case <-r.Context().Done():
		case <-until:
		}
		panic(http.ErrAbortHandler)
	}
}

// Then answers with one fault after the other, one for each request, and well when they are used up.
func Then(faults ...Fault) Fault {
	next := make(chan Fault, len(faults))
	for _, f := range faults {
		next <- f
	}
	return func(w http.ResponseWriter, r *http.Request, h http.Handler) {
		select {
		case f := <-next:
			f(w, r, h)
		default:
			h.ServeHTTP(w, r)
		}
	}
}
