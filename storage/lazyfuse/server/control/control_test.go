package control_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/slipwayd/slipway/storage/lazyfuse/server/control"
)

// handler is a server that has attached nothing but what it was told.
type handler struct {
	layers []control.Layer
	wanted []control.Wanted
	err    error
}

func (h *handler) Attach(id, dir string) error {
	if h.err == nil {
		h.layers = append(h.layers, control.Layer{ID: id, Dir: dir})
	}
	return h.err
}
func (h *handler) Detach(string) error { return h.err }
func (h *handler) Touched(string) ([]control.Touch, error) {
	return []control.Touch{{Path: "a/b", Millis: 4, Ranges: [][2]int64{{1, 2}}}}, h.err
}
func (h *handler) Record(string) error { return h.err }
func (h *handler) Replay(wanted []control.Wanted) error {
	h.wanted = wanted
	return h.err
}
func (h *handler) Send(id string, off int64) (func(context.Context, io.Writer) error, error) {
	return func(ctx context.Context, to io.Writer) error {
		if id == "waits" {
			<-ctx.Done()
			return ctx.Err()
		}
		_, err := fmt.Fprintf(to, "%s from %d\n on", id, off)
		return err
	}, h.err
}
func (h *handler) Layers() []control.Layer { return h.layers }
func (h *handler) Stats() control.Stats {
	return control.Stats{PID: os.Getpid(), PassthroughReason: "none"}
}

func serve(t *testing.T, h control.Handler, over control.Handover) control.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- control.Serve(ctx, l, h, over) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return control.Client{Socket: socket}
}

func TestCalls(t *testing.T) {
	h := &handler{}
	c, ctx := serve(t, h, control.Handover{}), context.Background()
	if err := c.Attach(ctx, "id", "/dir \"with\n everything"); err != nil {
		t.Fatal(err)
	}
	layers, err := c.Layers(ctx)
	if err != nil || len(layers) != 1 || layers[0].Dir != "/dir \"with\n everything" {
		t.Errorf("%+v, %v", layers, err)
	}
	if s, err := c.Stats(ctx); err != nil || s.PID != os.Getpid() || s.PassthroughReason != "none" {
		t.Errorf("%+v, %v", s, err)
	}
	if touched, err := c.Touched(ctx, "id"); err != nil || len(touched) != 1 || touched[0].Path != "a/b" || touched[0].Millis != 4 || touched[0].Ranges[0] != [2]int64{1, 2} {
		t.Errorf("%+v, %v", touched, err)
	}
	if err := c.Replay(ctx, []control.Wanted{{ID: "id"}, {ID: "id", Path: "a/b"}}); err != nil || len(h.wanted) != 2 || h.wanted[1].Path != "a/b" {
		t.Errorf("%+v, %v", h.wanted, err)
	}
	for _, kind := range []error{errdefs.ErrNotFound, errdefs.ErrAlreadyExists, errdefs.ErrInvalidArgument, errdefs.ErrFailedPrecondition, errdefs.ErrDataLoss} {
		h.err = fmt.Errorf("cannot do it: %w", kind)
		if err := c.Detach(ctx, "id"); !errors.Is(err, kind) || err.Error() != h.err.Error() {
			t.Errorf("got %v, want %v", err, h.err)
		}
	}
}

func TestBlob(t *testing.T) {
	h := &handler{}
	c, ctx := serve(t, h, control.Handover{}), context.Background()
	r, err := c.Blob(ctx, "id", 7)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != "id from 7\n on" {
		t.Errorf("%q, %v", got, err)
	}
	r.Close()
	h.err = errdefs.ErrNotFound
	if _, err := c.Blob(ctx, "id", 7); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	h.err = nil
	if r, err = c.Blob(ctx, "waits", 0); err != nil { // who has nothing to send learns that the client went: the test ends
		t.Fatal(err)
	}
	r.Close()
	short, cancel := context.WithCancel(ctx)
	if r, err = c.Blob(short, "waits", 0); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cancel()
	if _, err := io.ReadAll(r); err == nil {
		t.Error("a stream goes on without its context")
	}
}

func TestNoServer(t *testing.T) {
	c := control.Client{Socket: filepath.Join(t.TempDir(), "none")}
	if err := c.Attach(context.Background(), "id", "/dir"); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

// TestWaitsForServer: the socket is there and nobody serves it yet; the client waits as long as its context says.
func TestWaitsForServer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := control.Client{Socket: socket}.Stats(ctx)
		done <- err
	}()
	conn, err := l.AcceptUnix() // as a server that dies before it answers
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestForeignLines(t *testing.T) {
	c := serve(t, &handler{}, control.Handover{})
	for _, line := range []string{"nonsense\n", "{\"op\":\"format\"}\n", "[]\n"} {
		conn, err := net.Dial("unix", c.Socket)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, line); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		if err != nil || !strings.Contains(string(buf[:n]), "invalid argument") {
			t.Errorf("%q is answered with %q, %v", line, buf[:n], err)
		}
		conn.Close()
	}
}
