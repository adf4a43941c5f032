package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/moby/sys/mountinfo"
	"github.com/slipwayd/slipway/storage/lazyfuse/server/control"
	"golang.org/x/sys/unix"
)

// Config is what a server needs.
type Config struct {
	Mountpoint string   // where the keeper mounted the file system
	State      string   // directory for attached.json
	Device     *os.File // the descriptor of /dev/fuse that the mount was made with; stays the caller's
	Session    *os.File // from NewSession, one for each mount; stays the caller's
	Open       OpenFunc
	// Cache is a directory on the file system that backing files lie on. Passthrough is off when it is on overlayfs, which the
	// kernel refuses, and with NoPassthrough; only then may overlays be stacked three deep above the mount.
	Cache         string
	NoPassthrough bool
	Detail        func() any // what Stats says besides, may be nil
	Log           *slog.Logger
}

// Server serves one mount. It is a control.Handler.
type Server struct {
	cfg    Config
	fs     *fileSystem
	conn   *conn
	sess   *Session
	taken  bool // a server was here before
	passes atomic.Bool

	mu     sync.Mutex
	reason string // why passthrough is off
}

// New makes a server that answers nothing yet. It takes over when another one used the session.
func New(cfg Config) (*Server, error) {
	sess, err := OpenSession(cfg.Session)
	if err != nil {
		return nil, err
	}
	all, err := loadLayers(cfg.State, cfg.Open)
	if err != nil {
		return nil, errors.Join(err, sess.Close())
	}
	s := &Server{cfg: cfg, sess: sess}
	s.fs = &fileSystem{RawFileSystem: fuse.NewDefaultRawFileSystem(), layers: all, log: cfg.Log, backing: s.backing}
	opts := &fuse.MountOptions{
		MaxWrite: maxIO, MaxBackground: 128, MaxReadAhead: maxIO,
		EnableSymlinkCaching: true, ExplicitDataCacheControl: true, EnableAcl: true,
		Logger:       log.New(logWriter{cfg.Log}, "", 0),
		PanicHandler: s.panicked,
	}
	if s.reason = passthroughHindered(cfg); s.reason != "" {
		opts.DisabledCapabilities |= fuse.CAP_PASSTHROUGH
		cfg.Log.Warn("files of lazy layers are read through the FUSE server", "reason", s.reason)
	}
	s.conn = newConn(cfg.Device, fuse.NewProtocolServer(s.fs, opts), cfg.Log)
	s.fs.opens = newOpens(sess, s.conn.closeBacking)
	return s, nil
}

// passthroughHindered answers why the kernel will not read backing files itself, or nothing.
func passthroughHindered(cfg Config) string {
	if cfg.NoPassthrough {
		return "passthrough is switched off"
	}
	var st unix.Statfs_t
	if err := unix.Statfs(cfg.Cache, &st); err != nil {
		return fmt.Sprintf("the file system of the cache %s is unknown: %v", cfg.Cache, err)
	}
	if st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return fmt.Sprintf("the cache %s is on overlayfs, which the kernel refuses as backing of FUSE; move it to a disk's file system", cfg.Cache)
	}
	return ""
}

// Serve answers requests until the file system is unmounted (ErrUnmounted) or ctx is done (nil). After the latter the
// process should end, since goroutines may still wait in the kernel; requests that nobody answers go to the next server.
func (s *Server) Serve(ctx context.Context) error {
	if err := s.handshake(); err != nil {
		return err
	}
	stop := make(chan struct{})
	undo := context.AfterFunc(ctx, func() { close(stop) })
	defer undo()
	s.settle()
	err := s.conn.serve(stop)
	if err == nil {
		return nil
	}
	s.fs.layers.close()
	return errors.Join(err, s.sess.Close())
}

// handshake agrees with the kernel on what both can do. The kernel says INIT once in a mount's life: the session keeps it,
// and each server has go-fuse answer it again. An answer to what was answered before the kernel ignores, so it does not
// matter when the server before was killed. Features that a later go-fuse knows are held back: they were not agreed on.
func (s *Server) handshake() error {
	request, agreed := s.sess.initExchange()
	if len(request) == 0 {
		buf, err := mapBuffer()
		if err != nil {
			return err
		}
		defer func() { _ = unix.Munmap(buf) }()
		// A server may have been killed between reading INIT and saving it.
		if err := s.conn.resend(); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("cannot ask the kernel to begin: %w", err)
		}
		pin(buf[:requestSize])
		n, err := readRequest(s.conn.fd, buf)
		if err != nil {
			return err
		}
		request = buf[:n]
		s.sess.saveInitRequest(request)
	}
	request = append([]byte(nil), request...)
	if len(request) < initRequestFlags2+4 {
		return fmt.Errorf("the kernel's FUSE is too old: INIT has %d bytes", len(request))
	}
	if agreed != 0 {
		s.taken = true
		maskFlags(request[initRequestFlags:], uint32(agreed)|fuse.CAP_INIT_EXT)
		maskFlags(request[initRequestFlags2:], uint32(agreed>>32))
	}
	reply := make([]byte, headroom)
	n, status := s.conn.protocol.HandleRequest([][]byte{request}, [][]byte{reply})
	if !status.Ok() || n < initReplyFlags2+4 {
		return fmt.Errorf("cannot agree with the kernel on a FUSE protocol: %w", unix.Errno(status))
	}
	if agreed == 0 {
		s.sess.saveInitReply(reply[:n])
		_, agreed = s.sess.initExchange()
	}
	s.passes.Store(agreed&fuse.CAP_PASSTHROUGH != 0)
	if !s.passes.Load() && s.reason == "" {
		s.reason = "the kernel has no FUSE passthrough, or the mount began without"
	}
	s.conn.write(reply[:n])
	return nil
}

func maskFlags(p []byte, mask uint32) {
	binary.NativeEndian.PutUint32(p, binary.NativeEndian.Uint32(p)&mask)
}

func readRequest(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT):
		case errors.Is(err, unix.ENODEV):
			return 0, ErrUnmounted
		case err != nil:
			return 0, fmt.Errorf("cannot read the first FUSE request: %w", err)
		default:
			return n, nil
		}
	}
}

// settle puts the kernel's side in order. Like all of the server it never touches the mount itself: killed while it waits for
// its own answer, the process could not end, and who waits for its end could not start the one to answer.
func (s *Server) settle() {
	if s.taken {
		if err := s.conn.resend(); err != nil {
			s.cfg.Log.Error("requests that the FUSE server before had taken are lost; Linux before 6.9 cannot send them again", "error", err)
		}
		if err := s.conn.forgetRoot(); err != nil {
			s.cfg.Log.Warn("the list of layers in the mount may be old", "error", err)
		}
	}
	if err := setReadAhead(s.cfg.Mountpoint, maxIO>>10); err != nil {
		s.cfg.Log.Warn("cannot set the read-ahead of lazy layers, cold reads are slower", "error", err)
	}
}

// setReadAhead sets how much the kernel asks for ahead of a sequential reader. INIT can only lower it.
func setReadAhead(mountpoint string, kib int) error {
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(mountpoint))
	if err != nil {
		return err
	}
	if len(mounts) == 0 {
		return fmt.Errorf("%s is no mount point", mountpoint)
	}
	m := mounts[len(mounts)-1]
	return os.WriteFile(fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", m.Major, m.Minor), fmt.Append(nil, kib), 0)
}

// backing registers node's backing file with the kernel, if it is complete and this kernel and file system allow it.
func (s *Server) backing(l Layer, node int, size int64) (int32, bool) {
	if !s.passes.Load() {
		return 0, false
	}
	f, ok := l.Backing(node)
	if !ok {
		return 0, false
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() != size {
		s.cfg.Log.Error("a complete file of a lazy layer has the wrong size", "file", f.Name(), "want", size, "error", err)
		return 0, false
	}
	id, err := s.conn.openBacking(f)
	if err != nil {
		s.hinder(f, err)
		return 0, false
	}
	return id, true
}

// hinder notes why the kernel took no backing file. Other than for lack of memory it will not take the next one either.
func (s *Server) hinder(f *os.File, err error) {
	if errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ENFILE) || !s.passes.CompareAndSwap(true, false) {
		return
	}
	reason := fmt.Sprintf("the kernel refuses files of %s as backing: %v", filepath.Dir(f.Name()), err)
	s.mu.Lock()
	s.reason = reason
	s.mu.Unlock()
	s.cfg.Log.Warn("files of lazy layers are read through the FUSE server", "reason", reason)
}

func (s *Server) panicked(v any) fuse.Status {
	s.fs.panicking.Add(1)
	s.cfg.Log.Error("a FUSE request panicked", "panic", v, "stack", string(debug.Stack()))
	return fuse.EIO
}

// Attach implements control.Handler.
func (s *Server) Attach(id, dir string) error {
	if err := s.fs.layers.attach(id, dir); err != nil {
		return err
	}
	return s.conn.forgetRoot()
}

// Detach implements control.Handler. Files of the layer that are open fail from then on, unless the kernel reads them itself.
func (s *Server) Detach(id string) error {
	if err := s.fs.layers.detach(id); err != nil {
		return err
	}
	return s.conn.forgetRoot()
}

// Layers implements control.Handler.
func (s *Server) Layers() []control.Layer {
	var out []control.Layer
	for _, a := range s.fs.layers.list() {
		l := control.Layer{ID: a.id, Dir: a.dir, Slot: a.slot,
			Reads: a.counts.reads.Load(), ReadBytes: a.counts.bytes.Load(), ReadErrors: a.counts.errors.Load(),
			Opens: a.counts.opens.Load(), PassedOpens: a.counts.passed.Load()}
		l.Detail = a.detail()
		l.OpenCached, l.OpenPassed = s.fs.opens.of(func(node uint64) bool { slot, _ := splitID(node); return slot == a.slot })
		out = append(out, l)
	}
	return out
}

// Stats implements control.Handler.
func (s *Server) Stats() control.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := control.Stats{PID: os.Getpid(), Parent: os.Getppid(), Passthrough: s.passes.Load(), PassthroughReason: s.reason,
		Requests: s.fs.requests.Load(), Panics: s.fs.panicking.Load()}
	if s.cfg.Detail != nil {
		stats.Detail = detail(s.cfg.Detail())
	}
	return stats
}

// logWriter takes go-fuse's lines.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Warn("go-fuse: " + strings.TrimSpace(string(p)))
	return len(p), nil
}
