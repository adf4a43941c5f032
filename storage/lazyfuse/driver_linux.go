package lazyfuse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/storage/lazyfuse/server/control"
	"github.com/slipwayd/slipway/storage/lazyfuse/server/keeper"
	"github.com/slipwayd/slipway/storage/lazyfuse/state"
	"github.com/slipwayd/slipway/storage/overlay"
)

// Config is what a driver needs.
type Config struct {
	Layers *overlay.Driver // keeps what is here; the driver takes it over
	State  string          // directory for the mount and the server's socket; it may end with a reboot
	// Program is slipway-fuse, and Flags are what "slipway-fuse keeper" gets besides those that name directories.
	Program string
	Flags   []string
	Cache   string // directory for the bytes of layers
	Log     *slog.Logger
}

// Driver implements storage.Lazy. Layers that are not served are the overlay driver's own.
type Driver struct {
	*overlay.Driver
	cfg    Config
	client control.Client

	starting sync.Mutex // one at a time in ensure

	mu     sync.Mutex
	served map[string]*served // by id: all layers with a directory "lazy"

	stop       context.CancelFunc
	background sync.WaitGroup
}

var _ storage.Lazy = (*Driver)(nil)

// served is a layer that is, or was until it arrived, served by FUSE.
type served struct {
	id, dir string // dir is the layer's directory "lazy"
	state   state.Layer

	mu       sync.Mutex // held while it is settled, attached or let go
	settled  bool
	attached bool
	filled   bool // its files are here
	gone     bool // let go: an ordinary layer by now

	here chan struct{} // closed with filled
}

func newServed(id, dir string, l state.Layer) *served {
	return &served{id: id, dir: dir, state: l, here: make(chan struct{})}
}

// arrived notes that the layer's files are here. The caller holds s.mu, or nobody else knows the layer yet.
func (s *served) arrived() {
	if !s.filled {
		s.filled = true
		close(s.here)
	}
}

// New opens the driver and finds the layers that were attached before. FailedPrecondition, with the reason, where FUSE cannot
// be had: the overlay driver alone then does. It starts the FUSE server only when there is something to serve. The caller closes
// it, which ends no server.
func New(cfg Config) (*Driver, error) {
	if err := available(cfg.Program); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(cfg.State)
	if err != nil {
		return nil, err
	}
	cfg.State = dir
	if err := os.MkdirAll(cfg.State, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the state directory of lazy layers: %w", err)
	}
	d := &Driver{Driver: cfg.Layers, cfg: cfg, served: map[string]*served{}, client: control.Client{Socket: keeper.Socket(cfg.State)}}
	if err := d.find(); err != nil {
		return nil, fmt.Errorf("cannot find the lazy layers: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.stop = cancel
	d.background.Go(func() { d.upkeep(ctx) })
	return d, nil
}

// available says why FUSE layers cannot be had here.
func available(program string) error {
	if program == "" {
		return fmt.Errorf("slipway-fuse is neither beside slipwayd nor in PATH: %w", errdefs.ErrFailedPrecondition)
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("there is no FUSE, load the kernel's module fuse: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return f.Close()
}

// Close ends what the driver does by itself. Layers go on being served.
func (d *Driver) Close() error {
	d.stop()
	d.background.Wait()
	return nil
}

// find takes in what is on disk, and removes what a crash left of Fill.
func (d *Driver) find() error {
	ids, err := d.Driver.List(context.Background())
	if err != nil {
		return err
	}
	for _, id := range ids {
		dir, err := d.lazyDir(id)
		if err != nil {
			return err
		}
		l, err := state.Read(dir)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			d.cfg.Log.Error("the state of a lazy layer is damaged, remove its image and pull it again", "layer", id, "err", err)
			continue
		}
		if err := d.Driver.DropFilled(id); err != nil {
			return err
		}
		settled, err := state.Settled(dir)
		if err != nil {
			return err
		}
		s := newServed(id, dir, l)
		s.settled = settled
		if _, link := d.Driver.Served(id); !link {
			s.arrived()
		} else if err := d.Driver.Serve(id, d.target(id)); err != nil { // the mount may have been elsewhere
			return err
		}
		d.served[id] = s
	}
	return nil
}

// lazyDir is where the layer's state is, in the layer's directory.
func (d *Driver) lazyDir(id string) (string, error) {
	dir, err := d.Driver.Dir(id)
	return filepath.Join(dir, "lazy"), err
}

func (d *Driver) mountpoint() string { return filepath.Join(d.cfg.State, "mnt") }

// target is where the files of a served layer are mounted.
func (d *Driver) target(id string) string { return filepath.Join(d.mountpoint(), id) }

// lookup answers the layer if it is or was served.
func (d *Driver) lookup(id string) *served {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.served[id]
}

func (d *Driver) all() []*served {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]*served, 0, len(d.served))
	for _, s := range d.served {
		out = append(out, s)
	}
	return out
}

// ensure has the FUSE server run.
func (d *Driver) ensure(ctx context.Context) error {
	d.starting.Lock()
	defer d.starting.Unlock()
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	command := append([]string{d.cfg.Program, "keeper", "--mount", d.mountpoint(), "--state", d.cfg.State, "--cache", d.cfg.Cache}, d.cfg.Flags...)
	if _, err := keeper.Ensure(ctx, d.cfg.State, command); err != nil {
		return fmt.Errorf("cannot serve lazy layers: %w", err)
	}
	return nil
}

// startTime is how long the FUSE server may take to answer.
const startTime = 20 * time.Second

// attach has the server show a settled layer. The caller holds s.mu.
func (d *Driver) attach(ctx context.Context, s *served) error {
	for try := 0; ; try++ {
		err := d.client.Attach(ctx, s.id, s.dir)
		switch {
		case err == nil, errdefs.IsAlreadyExists(err):
			s.attached = true
			return nil
		case errdefs.IsUnavailable(err) && try == 0:
			if err := d.ensure(ctx); err != nil {
				return err
			}
		default:
			return fmt.Errorf("cannot attach lazy layer %s: %w", s.id, err)
		}
	}
}

// ready settles and attaches those of the layers ids, nearest first and all there is, that are served, so that they can be
// mounted. Layers that are here it settles with them, because either kind may lie on the other.
func (d *Driver) ready(ctx context.Context, ids []string) error {
	any := false
	for _, id := range ids {
		if s := d.lookup(id); s != nil {
			any = any || !s.isFilled()
		}
	}
	if !any {
		return nil
	}
	if err := d.ensure(ctx); err != nil {
		return err
	}
	for i := len(ids) - 1; i >= 0; i-- {
		if err := d.askable(ctx, ids[i], ids[i+1:]); err != nil {
			return err
		}
		if err := d.readyOne(ctx, ids[i], ids[i+1:]); err != nil {
			return err
		}
	}
	return nil
}

func (s *served) isFilled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.filled
}

func (d *Driver) readyOne(ctx context.Context, id string, parents []string) error {
	s := d.lookup(id)
	if s == nil {
		if err := d.Driver.Settle(id, parents); err != nil {
			return fmt.Errorf("cannot settle layer %s on its parents: %w", id, err)
		}
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.filled || s.attached && s.settled {
		return nil
	}
	if !s.settled {
		if err := d.settle(s, parents); err != nil {
			return fmt.Errorf("cannot settle lazy layer %s on its parents: %w", id, err)
		}
	}
	return d.attach(ctx, s)
}

// forget drops a layer from the books.
func (d *Driver) forget(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.served, id)
}

// detach has the server drop a layer, which nothing may be mounted on. It is nil when no server has it.
func (d *Driver) detach(ctx context.Context, id string) error {
	err := d.client.Detach(ctx, id)
	if errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) && !d.running() {
		return nil
	}
	return err
}

// running says whether a keeper runs.
func (d *Driver) running() bool {
	runs, err := keeper.Running(d.cfg.State)
	return runs || err != nil
}

var errMounted = errors.New("something is mounted on it")
