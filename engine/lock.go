package engine

import (
	"context"
	"sync"
)

// keyLocks is a mutex for each key in use; keys that nobody holds or waits for take no memory.
type keyLocks struct {
	mu   sync.Mutex
	held map[string]*keyLock
}

type keyLock struct {
	token chan struct{} // holds one token while the key is free
	users int           // holders and waiters, under keyLocks.mu
}

// lock waits for key and answers its unlock, or ctx's error.
func (k *keyLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*keyLock{}
	}
	l := k.held[key]
	if l == nil {
		l = &keyLock{token: make(chan struct{}, 1)}
		l.token <- struct{}{}
		k.held[key] = l
	}
	l.users++
	k.mu.Unlock()

	select {
	case <-l.token:
		return func() {
			l.token <- struct{}{}
			k.leave(key, l)
		}, nil
	case <-ctx.Done():
		k.leave(key, l)
		return nil, ctx.Err()
	}
}

func (k *keyLocks) leave(key string, l *keyLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(k.held, key)
	}
}

// try answers false when key is held.
func (k *keyLocks) try(key string) (unlock func(), ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held == nil {
		k.held = map[string]*keyLock{}
	}
	if k.held[key] != nil {
		return nil, false
	}
	l := &keyLock{token: make(chan struct{}, 1), users: 1}
	k.held[key] = l
	return func() {
		l.token <- struct{}{}
		k.leave(key, l)
	}, true
}
