package containerd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"testing"

	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	transfertypes "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	records "github.com/slipwayd/slipway/metadata"
)

// streamPair opens a stream as a client does and claims it as a transfer does.
func streamPair(t *testing.T, table *streamTable, id string) (streamingapi.Streaming_StreamClient, *stream) {
	t.Helper()
	client := openStream(t, dialStreams(t, table), "test", id)
	s, err := table.claim("test", id)
	if err != nil {
		t.Fatal(err)
	}
	return client, s
}

func dialStreams(t *testing.T, table *streamTable) streamingapi.StreamingClient {
	t.Helper()
	g := newGuard(slog.New(slog.DiscardHandler))
	g.ready.Store(true)
	server := grpc.NewServer(grpc.StreamInterceptor(g.stream))
	registerStreaming(server, table)
	listener := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///buf", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		<-served
	})
	return streamingapi.NewStreamingClient(conn)
}

func openStream(t *testing.T, c streamingapi.StreamingClient, ns, id string) streamingapi.Streaming_StreamClient {
	t.Helper()
	client, err := initStream(t, c, ns, id)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func initStream(t *testing.T, c streamingapi.StreamingClient, ns, id string) (streamingapi.Streaming_StreamClient, error) {
	t.Helper()
	ctx := metadata.AppendToOutgoingContext(t.Context(), namespaceHeader, ns)
	client, err := c.Stream(ctx)
	if err != nil {
		return nil, err
	}
	a, err := typeurl.MarshalAnyToProto(&streamingapi.StreamInit{ID: id})
	if err != nil {
		return nil, err
	}
	_ = client.Send(a) // EOF when the server has refused the stream already; Recv says why
	_, err = client.Recv()
	return client, errgrpc.ToNative(err)
}

func sendTo(t *testing.T, client streamingapi.Streaming_StreamClient, msg any) {
	t.Helper()
	a, err := typeurl.MarshalAnyToProto(msg)
	if err != nil {
		t.Error(err)
		return
	}
	if err := client.Send(a); err != nil {
		t.Error(err)
	}
}

func TestStreamIsClaimedOnceAndOnlyInItsNamespace(t *testing.T) {
	table := newStreamTable()
	client := openStream(t, dialStreams(t, table), "test", "a")
	if _, err := table.claim("other", "a"); !errdefs.IsNotFound(err) {
		t.Errorf("claim from another namespace: %v, want NotFound", err)
	}
	s, err := table.claim("test", "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := table.claim("test", "a"); !errdefs.IsNotFound(err) {
		t.Errorf("second claim: %v, want NotFound", err)
	}
	s.close()
	if _, err := client.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("client of a closed stream gets %v, want EOF", err)
	}
}

func TestStreamInitIsChecked(t *testing.T) {
	table := newStreamTable()
	c := dialStreams(t, table)
	openStream(t, c, "test", "taken")
	for name, tt := range map[string]struct {
		ns, id string
		is     func(error) bool
	}{
		"empty id":     {"test", "", errdefs.IsInvalidArgument},
		"long id":      {"test", string(make([]byte, maxStreamID+1)), errdefs.IsInvalidArgument},
		"id in use":    {"test", "taken", errdefs.IsAlreadyExists},
		"no namespace": {"", "x", errdefs.IsFailedPrecondition},
		"bad ns":       {"../x", "x", errdefs.IsInvalidArgument},
	} {
		if _, err := initStream(t, c, tt.ns, tt.id); !tt.is(err) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestUnclaimedStreamLeavesTheTableWithItsClient(t *testing.T) {
	table := newStreamTable()
	c := dialStreams(t, table)
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(t.Context(), namespaceHeader, "test"))
	client, err := c.Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sendTo(t, client, &streamingapi.StreamInit{ID: "a"})
	if _, err := client.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	// The id is free again once the server has noticed; until then another stream of that id is refused.
	for {
		_, err := initStream(t, c, "test", "a")
		if err == nil {
			return
		}
		if !errdefs.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
}

// sendBytes plays a client that sends an archive: it never has more under way than it was granted.
func sendBytes(t *testing.T, client streamingapi.Streaming_StreamClient, data []byte) {
	credit := 0
	for len(data) > 0 {
		for credit == 0 {
			msg, err := client.Recv()
			if err != nil {
				t.Error(err)
				return
			}
			var u transfertypes.WindowUpdate
			if err := typeurl.UnmarshalTo(msg, &u); err != nil {
				t.Error(err)
				return
			}
			credit += int(u.Update)
		}
		n := min(len(data), credit, 32<<10)
		sendTo(t, client, &transfertypes.Data{Data: data[:n]})
		data, credit = data[n:], credit-n
	}
	if err := client.CloseSend(); err != nil {
		t.Error(err)
	}
}

// receiveBytes plays a client that takes an archive, granting step by step.
func receiveBytes(t *testing.T, client streamingapi.Streaming_StreamClient) []byte {
	var all []byte
	window := 0
	for {
		if window < grantStep {
			sendTo(t, client, &transfertypes.WindowUpdate{Update: grantStep})
			window += grantStep
		}
		msg, err := client.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Error(err)
			return all
		}
		var d transfertypes.Data
		if err := typeurl.UnmarshalTo(msg, &d); err != nil {
			t.Error(err)
			return all
		}
		if window -= len(d.Data); window < 0 {
			t.Errorf("server sent %d bytes more than it was granted", -window)
		}
		all = append(all, d.Data...)
	}
}

func TestByteStreams(t *testing.T) {
	for _, size := range []int{0, 1, maxDataMessage, grantStep, grantStep + 1, 3*readWindow + 7} {
		want := bytes.Repeat([]byte("slipway"), size/7+1)[:size]
		table := newStreamTable()

		client, s := streamPair(t, table, "import")
		sent := make(chan struct{})
		go func() { defer close(sent); sendBytes(t, client, want) }()
		got, err := io.ReadAll(&byteReader{s: s})
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("import of %d bytes: got %d, %v", size, len(got), err)
		}
		<-sent
		s.close()

		client, s = streamPair(t, table, "export")
		w := newByteWriter(s)
		received := make(chan []byte, 1)
		go func() { received <- receiveBytes(t, client) }()
		if _, err := w.Write(want); err != nil {
			t.Errorf("export of %d bytes: %v", size, err)
		}
		w.drain()
		w.Close()
		if got := <-received; !bytes.Equal(got, want) {
			t.Errorf("export of %d bytes: client got %d", size, len(got))
		}
	}
}

func TestByteReaderRefusesOtherMessages(t *testing.T) {
	client, s := streamPair(t, newStreamTable(), "import")
	defer s.close()
	sendTo(t, client, &transfertypes.Progress{})
	if _, err := (&byteReader{s: s}).Read(make([]byte, 1)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v, want InvalidArgument", err)
	}
}

func TestByteWriterEndsWithItsClient(t *testing.T) {
	client, s := streamPair(t, newStreamTable(), "export")
	w := newByteWriter(s)
	if err := client.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("x")); !errdefs.IsUnavailable(err) {
		t.Errorf("write to a client that grants nothing and is gone: %v, want Unavailable", err)
	}
	w.Close()
}

func TestCredentialsComeOverTheStream(t *testing.T) {
	client, s := streamPair(t, newStreamTable(), "auth")
	defer s.close()
	asked := make(chan string, 1)
	go func() {
		msg, err := client.Recv()
		if err != nil {
			t.Error(err)
			return
		}
		var r transfertypes.AuthRequest
		if err := typeurl.UnmarshalTo(msg, &r); err != nil {
			t.Error(err)
		}
		asked <- r.Host + " " + r.Reference
		sendTo(t, client, &transfertypes.AuthResponse{AuthType: transfertypes.AuthType_CREDENTIALS, Username: "u", Secret: "p"})
	}()
	c := &credentialStream{s: s, reference: "example.com/a:b", turn: make(chan struct{}, 1)}
	cred, err := c.ask(t.Context(), "example.com")
	if err != nil || cred.Username != "u" || cred.Password != "p" {
		t.Errorf("got %+v, %v", cred, err)
	}
	if got := <-asked; got != "example.com example.com/a:b" {
		t.Errorf("client was asked for %q", got)
	}
}

func TestSilentCredentialStreamEndsWithTheCall(t *testing.T) {
	_, s := streamPair(t, newStreamTable(), "auth")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := &credentialStream{s: s, turn: make(chan struct{}, 1)}
	if _, err := c.ask(ctx, "example.com"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
}

func TestHeaderCredentials(t *testing.T) {
	for header, want := range map[string]string{
		"Bearer abc":         "//abc",
		"basic dTpwOng=":     "u/p:x/",
		"Basic !":            "error",
		"Digest username=\"": "error",
		"":                   "error",
	} {
		c, err := credential(&transfertypes.AuthResponse{AuthType: transfertypes.AuthType_HEADER, Secret: header})
		got := c.Username + "/" + c.Password + "/" + c.AccessToken
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", header, got, want)
		}
	}
}

func TestProgressKeepsTheNewestOfEachName(t *testing.T) {
	client, s := streamPair(t, newStreamTable(), "progress")
	p := &progressStream{
		s: s, wake: make(chan struct{}, 1), done: make(chan struct{}),
		pending: map[string]int{}, refs: map[digest.Digest]string{},
	}
	p.status("Pulling")
	p.put(&transfertypes.Progress{Name: "image", Event: "fetching"})
	for i := range int64(1000) {
		p.put(&transfertypes.Progress{Name: "layer", Event: "downloading", Progress: i})
	}
	p.completed([]records.Image{{Name: "image"}}, "Completed %s", "it")
	go p.run()
	go p.close()
	var got []string
	for {
		msg, err := client.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		var m transfertypes.Progress
		if err := typeurl.UnmarshalTo(msg, &m); err != nil {
			t.Fatal(err)
		}
		got = append(got, m.Name+":"+m.Event)
		if m.Name == "layer" && m.Progress != 999 {
			t.Errorf("layer at %d, want the newest", m.Progress)
		}
	}
	// A name comes before its parts, and the end after all.
	if want := []string{":Pulling", "image:fetching", "layer:downloading", "image:saved", ":Completed it"}; !slices.Equal(got, want) {
		t.Errorf("client got %q", got)
	}
}
