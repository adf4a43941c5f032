package fdstore

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// Store holds files for those who connect to its socket. Listen makes it; Close closes all it holds.
type Store struct {
	listener *net.UnixListener
	log      *slog.Logger
	wait     sync.WaitGroup

	mu    sync.Mutex
	held  map[string]descriptors
	count int // files in held
}

// Listen makes the socket, in the place of one that a daemon left which died.
func Listen(path string, log *slog.Logger) (*Store, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot remove the old socket for terminals: %w", err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("cannot listen for terminals: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	s := &Store{listener: l, log: log, held: map[string]descriptors{}}
	s.wait.Go(s.serve)
	return s, nil
}

// Close ends what is under way and closes all files.
func (s *Store) Close() error {
	err := s.listener.Close()
	s.wait.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.held {
		s.drop(name)
	}
	return err
}

// Drop closes what is held under name, and under names that begin with name and a slash.
func (s *Store) Drop(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(name)
	for other := range s.held {
		if strings.HasPrefix(other, name+"/") {
			s.drop(other)
		}
	}
}

// drop needs s.mu.
func (s *Store) drop(name string) {
	s.count -= len(s.held[name])
	s.held[name].close()
	delete(s.held, name)
}

// serve takes one connection after the other: a request is a moment's work, and who is slower than timeout is cut off.
func (s *Store) serve() {
	for {
		conn, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			err = s.answer(conn)
			conn.Close()
		} else {
			time.Sleep(10 * time.Millisecond) // no more files can be open: let some be closed
		}
		if err != nil {
			s.log.Warn("cannot serve a shim that wants files kept", "error", err)
		}
	}
}

func (s *Store) answer(conn *net.UnixConn) error {
	if uid, err := peer(conn); err != nil || uid != 0 && uid != os.Geteuid() {
		return fmt.Errorf("user %d may not: %w", uid, errors.Join(err, fs.ErrPermission))
	}
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	m, files, err := receive(conn)
	if err != nil {
		return errors.Join(err, send(conn, message{Error: err.Error()}, nil))
	}
	switch m.Op {
	case "keep":
		return send(conn, s.keep(m.Name, files), nil)
	case "take":
		files.close()
		s.mu.Lock() // until they are sent, so that nobody closes them
		defer s.mu.Unlock()
		held := s.held[m.Name]
		return send(conn, message{None: held == nil}, held)
	}
	files.close()
	return send(conn, message{Error: "there is no request " + m.Op}, nil)
}

// keep takes over files, after an error too.
func (s *Store) keep(name string, files descriptors) message {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == "" || len(name) > maxName || len(files) == 0 {
		files.close()
		return message{Error: "nothing to keep, or under no fit name"}
	}
	s.drop(name)
	if s.count+len(files) > maxFiles {
		files.close()
		return message{Error: fmt.Sprintf("%d files are kept already", s.count)}
	}
	s.held[name] = files
	s.count += len(files)
	return message{}
}
