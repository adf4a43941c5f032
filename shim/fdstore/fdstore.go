// Package fdstore keeps descriptors for a shim beyond its death: terminals and the ends of fifos that somebody else would take the
// loss of for an end. The daemon has the Store, a shim the Client.
//
// It is a socket of the daemon's (SOCK_SEQPACKET, mode 0600, peers of user 0 only) where one connection carries one request and
// its answer, each a packet of JSON with descriptors beside it (unix(7), SCM_RIGHTS).
//
// It imports nothing of ours. A crash of the daemon loses what it keeps; the shims, which have it all open themselves, hand it in
// again. What nobody has open any more the kernel closes: there is nothing to clean up.
package fdstore

import (
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
)

// maxFiles bounds what a Store holds, and perName what it holds under one name.
const (
	maxFiles = 4096
	perName  = 4
	maxName  = 512 // bytes
	maxText  = 4096
)

// timeout is how long a request may take from its connection on.
const timeout = 2 * time.Second

// Files are open files under names of one's own, such as "terminal".
type Files map[string]*os.File

// Close closes all of them.
func (f Files) Close() {
	for _, file := range f {
		file.Close()
	}
}

// Client hands files to a Store, and gets them back.
type Client struct {
	Path string // of the Store's socket
}

// message is a request or an answer; Names are those of the descriptors that come with it, in their order.
type message struct {
	Op    string   `json:"op,omitempty"` // keep or take
	Name  string   `json:"name,omitempty"`
	Names []string `json:"files,omitempty"`
	Error string   `json:"error,omitempty"`
	None  bool     `json:"none,omitempty"` // nothing is kept under that name
}

// Keep has the Store hold duplicates of files under name, in the place of what it held there. The files stay the caller's.
// ResourceExhausted when it holds too much already, Unavailable when there is no Store.
func (c Client) Keep(name string, files Files) error {
	if _, err := c.ask(message{Op: "keep", Name: name}, files); err != nil {
		return fmt.Errorf("cannot have the files of %s kept: %w", name, err)
	}
	return nil
}

// Take answers duplicates of what is kept under name, for the caller to close, and lets the Store go on keeping it. NotFound when that is
// nothing, Unavailable when there is no Store.
func (c Client) Take(name string) (Files, error) {
	files, err := c.ask(message{Op: "take", Name: name}, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot get the files of %s back: %w", name, err)
	}
	return files, nil
}

func (m message) err() error {
	switch {
	case m.None:
		return fmt.Errorf("none are kept: %w", errdefs.ErrNotFound)
	case m.Error != "":
		return fmt.Errorf("%s: %w", m.Error, errdefs.ErrResourceExhausted)
	}
	return nil
}
