package windows

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/winname"
	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/windows/hcs"
)

// Config is what an Executor needs to know.
type Config struct {
	Root string       // state directory; made when missing
	Log  *slog.Logger // where it tells what it could not do but went on without; nil for slog's default
	Host hcs.Host     // nil for this machine's
	// Grace is how long what is left in a container may take to end when its init has; 0 for 5 s. It is then terminated.
	Grace time.Duration
}

// Executor is the built-in executor of a Windows host.
type Executor struct {
	root  string
	log   *slog.Logger
	host  hcs.Host
	grace time.Duration

	life       context.Context // until Close: what goroutines wait under
	end        context.CancelFunc
	background sync.WaitGroup // goroutines that wait for systems and processes to end

	mu         sync.Mutex
	containers map[string]*container // created or adopted here
}

var _ platform.Executor = (*Executor)(nil)

// New opens the state directory and the Host Compute Service. NotImplemented where there is none.
func New(cfg Config) (*Executor, error) {
	if cfg.Host == nil {
		host, err := hcs.Open()
		if err != nil {
			return nil, fmt.Errorf("cannot run containers on this host: %w", err)
		}
		cfg.Host = host
	}
	if err := os.MkdirAll(cfg.Root, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the state directory of containers: %w", err)
	}
	e := &Executor{root: cfg.Root, log: cfg.Log, host: cfg.Host, grace: cfg.Grace, containers: map[string]*container{}}
	if e.log == nil {
		e.log = slog.Default()
	}
	if e.grace == 0 {
		e.grace = 5 * time.Second
	}
	e.life, e.end = context.WithCancel(context.Background())
	return e, nil
}

// Close stops watching. Containers go on running, and a later Executor on the same directory adopts them; Wait of processes that still
// run answers Unavailable.
func (e *Executor) Close() error {
	e.end()
	e.background.Wait()
	e.mu.Lock()
	containers := e.containers
	e.containers = map[string]*container{}
	e.mu.Unlock()
	for _, c := range containers {
		c.release()
	}
	return nil
}

func (e *Executor) List(ctx context.Context) ([]string, error) {
	entries, err := os.ReadDir(e.root)
	if err != nil {
		return nil, fmt.Errorf("cannot list containers: %w", err)
	}
	var ids []string
	for _, entry := range entries {
		if entry.IsDir() && validID(entry.Name()) {
			ids = append(ids, entry.Name())
		}
	}
	return ids, nil
}

func (e *Executor) Adopt(ctx context.Context, id string) (platform.Container, error) {
	if !validID(id) {
		return nil, fmt.Errorf("cannot adopt container %q: not a valid id: %w", id, errdefs.ErrInvalidArgument)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.containers[id]; c != nil {
		return c, nil
	}
	dir := filepath.Join(e.root, id)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot adopt container %q: %w", id, errdefs.ErrNotFound)
	}
	c, err := e.adopt(ctx, id, dir)
	if err != nil {
		return nil, fmt.Errorf("cannot adopt container %q: %w", id, err)
	}
	e.containers[id] = c
	return c, nil
}

// validID says whether a container or process may be called id, which becomes a file name on Windows.
func validID(id string) bool {
	if id == "" || len(id) > 200 || id[0] == '.' || id[0] == '-' || strings.HasSuffix(id, ".") {
		return false
	}
	for _, c := range []byte(id) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '+', c == '-':
		default:
			return false
		}
	}
	return !winname.Reserved(id)
}
