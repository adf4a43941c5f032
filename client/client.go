// Package client is the Go client of Slipway's daemon over a unix socket or a named pipe.
//
// It speaks containerd's gRPC API and Slipway's own, so most of it works against any server of that API. It owns the
// client's side of containers' standard streams (fifos and the copying) and the steps between an image and a running
// process. It imports no daemon code, and a crash of the client leaves containers running: what it made on the daemon stays
// until somebody deletes it, and its fifos go with their directory under /run.
package client

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	contentapi "github.com/containerd/containerd/api/services/content/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	transferapi "github.com/containerd/containerd/api/services/transfer/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	slipwayapi "github.com/slipwayd/slipway/api/slipway/v1"
)

// maxMessage is the API's limit on a message, both ways, in bytes.
const maxMessage = 16 << 20

// namespaceHeader carries the namespace of every call.
const namespaceHeader = "containerd-namespace"

// Client is a connection to one daemon in one namespace. It is safe for concurrent use; Close ends it.
type Client struct {
	namespace   string
	snapshotter string
	conn        *grpc.ClientConn

	containers containersapi.ContainersClient
	content    contentapi.ContentClient
	events     eventsapi.EventsClient
	images     imagesapi.ImagesClient
	snapshots  snapshotsapi.SnapshotsClient
	streams    streamingapi.StreamingClient
	tasks      tasksapi.TasksClient
	transfer   transferapi.TransferClient
	version    versionapi.VersionClient
	daemon     slipwayapi.DaemonClient
	own        slipwayapi.ContainersClient

	info func(ctx context.Context) (*slipwayapi.InfoResponse, error) // see cachedInfo
}

// Option changes how New connects.
type Option func(*Client)

// WithNamespace chooses the namespace; "default" otherwise.
func WithNamespace(ns string) Option { return func(c *Client) { c.namespace = ns } }

// WithSnapshotter chooses the snapshotter for images and containers; the daemon's default otherwise.
func WithSnapshotter(name string) Option { return func(c *Client) { c.snapshotter = name } }

// Address is where a daemon is looked for: $SLIPWAY_ADDRESS, $CONTAINERD_ADDRESS, or the default of this system.
func Address() string {
	for _, v := range []string{os.Getenv("SLIPWAY_ADDRESS"), os.Getenv("CONTAINERD_ADDRESS")} {
		if v != "" {
			return v
		}
	}
	return defaultAddress
}

// New makes a client of the daemon at address: the path of a unix socket, or a named pipe such as \\.\pipe\slipway. It does
// not connect until the first call, which is Unavailable when nobody answers.
func New(address string, opts ...Option) (*Client, error) {
	c := &Client{namespace: "default"}
	for _, o := range opts {
		o(c)
	}
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the socket's file mode is what protects it
		grpc.WithContextDialer(dial),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithChainUnaryInterceptor(c.unary), grpc.WithChainStreamInterceptor(c.stream),
	)
	if err != nil {
		return nil, fmt.Errorf("cannot make a client for %s: %w", address, err)
	}
	c.conn = conn
	c.containers = containersapi.NewContainersClient(conn)
	c.content = contentapi.NewContentClient(conn)
	c.events = eventsapi.NewEventsClient(conn)
	c.images = imagesapi.NewImagesClient(conn)
	c.snapshots = snapshotsapi.NewSnapshotsClient(conn)
	c.streams = streamingapi.NewStreamingClient(conn)
	c.tasks = tasksapi.NewTasksClient(conn)
	c.transfer = transferapi.NewTransferClient(conn)
	c.version = versionapi.NewVersionClient(conn)
	c.daemon = slipwayapi.NewDaemonClient(conn)
	c.own = slipwayapi.NewContainersClient(conn)
	c.info = c.cachedInfo()
	return c, nil
}

// Close ends the connection. Containers go on.
func (c *Client) Close() error { return c.conn.Close() }

// Conn is the connection, for calls that this package has no word for; the namespace is added to them.
func (c *Client) Conn() *grpc.ClientConn { return c.conn }

// Namespace that the client works in.
func (c *Client) Namespace() string { return c.namespace }

// Version of the daemon and the revision of its source.
func (c *Client) Version(ctx context.Context) (version, revision string, err error) {
	r, err := c.version.Version(ctx, &emptypb.Empty{})
	if err != nil {
		return "", "", err
	}
	return r.Version, r.Revision, nil
}

// Info is what the daemon tells of itself and its host.
func (c *Client) Info(ctx context.Context) (*slipwayapi.InfoResponse, error) {
	return c.daemon.Info(ctx, &slipwayapi.InfoRequest{})
}

// cachedInfo asks once: a client's daemon changes neither its directories nor its default snapshotter. It answers nil when the daemon
// is another one that speaks containerd's API.
func (c *Client) cachedInfo() func(context.Context) (*slipwayapi.InfoResponse, error) {
	var mu sync.Mutex
	var asked bool
	var known *slipwayapi.InfoResponse
	return func(ctx context.Context) (*slipwayapi.InfoResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		if asked {
			return known, nil
		}
		info, err := c.Info(ctx)
		switch {
		case errdefs.IsNotImplemented(err):
			asked = true
		case err != nil:
			return nil, fmt.Errorf("cannot learn which daemon this is: %w", err)
		default:
			asked, known = true, info
		}
		return known, nil
	}
}

// Snapshotter that images are unpacked with and containers made on.
func (c *Client) Snapshotter(ctx context.Context) (string, error) {
	if c.snapshotter != "" {
		return c.snapshotter, nil
	}
	info, err := c.info(ctx)
	if err == nil && info == nil {
		err = fmt.Errorf("the daemon tells no default snapshotter, name one: %w", errdefs.ErrNotImplemented)
	}
	return info.GetDefaultSnapshotter(), err
}

func (c *Client) outgoing(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, namespaceHeader, c.namespace)
}

// unary adds the namespace and turns gRPC codes into errdefs errors, for every call at once.
func (c *Client) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return errgrpc.ToNative(invoke(c.outgoing(ctx), method, req, reply, cc, opts...))
}

func (c *Client) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := streamer(c.outgoing(ctx), desc, cc, method, opts...)
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	return nativeErrors{s}, nil
}

// nativeErrors is a stream whose errors are errdefs errors (io.EOF stays itself).
type nativeErrors struct{ grpc.ClientStream }

func (s nativeErrors) RecvMsg(m any) error { return streamError(s.ClientStream.RecvMsg(m)) }
func (s nativeErrors) SendMsg(m any) error { return streamError(s.ClientStream.SendMsg(m)) }

func streamError(err error) error {
	if err == io.EOF { // gRPC promises it unwrapped
		return err
	}
	return errgrpc.ToNative(err)
}
