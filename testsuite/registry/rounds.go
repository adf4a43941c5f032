package registry

import (
	"net/http"
	"sync"
)

// Rounds shows without a clock how many round trips lie one after the other: it holds the requests of a round until all of them have
// come, so that a client which wants the answer to one before it asks the next gets stuck. What comes after the last round waits for
// Release.
type Rounds struct {
	mu    sync.Mutex
	sizes []int
	seen  []string      // the requests of the round that is on
	next  chan struct{} // closed when it is complete
	free  chan struct{} // closed by Release
	once  sync.Once
}

// NewRounds expects so many requests in each round.
func NewRounds(sizes ...int) *Rounds {
	return &Rounds{sizes: sizes, next: make(chan struct{}), free: make(chan struct{})}
}

// Fault is given to Registry.Fault with what counts.
func (r *Rounds) Fault(w http.ResponseWriter, req *http.Request, next http.Handler) {
	select {
	case <-r.join(req.Method + " " + req.URL.Path):
	case <-r.free:
	case <-req.Context().Done():
		return
	}
	next.ServeHTTP(w, req)
}

// join answers what a request waits for.
func (r *Rounds) join(what string) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, what)
	waits := r.next
	if len(r.sizes) > 0 && len(r.seen) == r.sizes[0] {
		close(r.next)
		r.sizes, r.seen, r.next = r.sizes[1:], nil, make(chan struct{})
	}
	return waits
}

// Left is how many rounds are not complete, and the requests that wait.
func (r *Rounds) Left() (rounds int, waiting []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sizes), append([]string(nil), r.seen...)
}

// Release lets all go on, and holds nothing any more.
func (r *Rounds) Release() { r.once.Do(func() { close(r.free) }) }
