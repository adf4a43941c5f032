// Package keeper holds what must not end when the FUSE server does: the descriptor of /dev/fuse, the session, the socket.
//
// It owns the mount and the server's process, which it starts again whenever it ends. It knows no layer and does next to
// nothing, so that there is next to nothing to go wrong. It lives in a session of its own, survives slipwayd, and imports
// package server only for the memory file.
//
// What a crash leaves: a server that goes on serving, without anybody to start it again; the next keeper takes its
// descriptors over the control socket. When both died, the mount answers ENOTCONN, and the next keeper unmounts it lazily and
// mounts anew.
package keeper
