// Package endpoint is where processes of one host meet: unix sockets that only their owner may use, and named pipes that only
// administrators and the system may use on Windows.
//
// An address is the path of a socket. On Windows it is the path of a file that names a pipe, whose name nobody can guess: names of pipes
// belong to whoever is first, so that another's program could answer in the place of one that has died, and who may write into a
// directory is something to rely on. The address \\.\pipe\NAME is that pipe itself, for what has to be at a well-known place.
//
// It imports nothing of ours. A crash leaves the file of the socket, or the one that names a pipe; Listen replaces it.
package endpoint

import (
	"context"
	"net"
)

// Listen makes the address, in the place of one that a dead process left. That no living process uses it is the caller's to know. The file
// stays after Close.
func Listen(address string) (net.Listener, error) { return listen(address) }

// Dial connects to who listens at the address. Nobody tells the errors that mean that no one does.
func Dial(ctx context.Context, address string) (net.Conn, error) { return dial(ctx, address) }

// Nobody says whether an error of Dial means that no process listens there, as opposed to one that does not answer.
func Nobody(err error) bool { return nobody(err) }

// Broken says whether an error of reading or writing means that the other end is gone.
func Broken(err error) bool { return broken(err) }
