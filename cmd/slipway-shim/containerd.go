package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/slipwayd/slipway/internal/ipc"
	"github.com/slipwayd/slipway/shim/server"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// invocation is one run of the binary by a containerd, as its runtime v2 README ("Commands") has it.
type invocation struct {
	namespace, id, bundle string
	events                string // TTRPC_ADDRESS
	state                 string // of the shim that serves this containerd
}

// startTimeout is how long a shim may take to adopt what its predecessor left and answer.
const startTimeout = 20 * time.Second

// runContainerd reads the command line that containerd uses.
func runContainerd(args []string, stdin io.Reader, stdout io.Writer) error {
	var v invocation
	var showVersion, info bool
	f := flag.NewFlagSet("containerd-shim-slipway-v1", flag.ContinueOnError)
	f.StringVar(&v.namespace, "namespace", os.Getenv("NAMESPACE"), "namespace of the container")
	f.StringVar(&v.id, "id", "", "id of the container")
	f.StringVar(&v.bundle, "bundle", "", "bundle of the container, if it is not the working directory")
	f.String("address", "", "gRPC socket of containerd (unused: events go to $TTRPC_ADDRESS)")
	f.String("publish-binary", "", "containerd's binary (unused)")
	f.String("socket", "", "unused")
	f.Bool("debug", false, "unused")
	f.BoolVar(&showVersion, "v", false, "show version")
	f.BoolVar(&info, "info", false, "tell what the runtime can do, as a protobuf message")
	if err := f.Parse(args); err != nil {
		return err
	}
	v.events = os.Getenv("TTRPC_ADDRESS")
	switch {
	case showVersion:
		_, err := fmt.Fprintf(stdout, "slipway-shim %s\n", version)
		return err
	case info:
		return writeInfo(stdout)
	case f.Arg(0) == "start":
		return v.start(stdin, stdout)
	case f.Arg(0) == "delete":
		return v.delete(stdout)
	}
	return errors.New("say serve, start, delete, -info or -v; see the documentation of slipwayd and of containerd's runtime v2")
}

// start answers the address of the one shim for this containerd, and starts that when it does not run.
func (v *invocation) start(stdin io.Reader, stdout io.Writer) error {
	input, err := io.ReadAll(io.LimitReader(stdin, 10<<20))
	if err != nil {
		return fmt.Errorf("cannot read standard input: %w", err)
	}
	var params bootstrap.BootstrapParams
	// Options of an older containerd could be mistaken for parameters; those would name another container.
	modern := proto.Unmarshal(input, &params) == nil && params.InstanceID == v.id && params.Namespace == v.namespace && v.id != ""
	if modern && params.ContainerdTtrpcAddress != "" {
		v.events = params.ContainerdTtrpcAddress
	}
	client, err := v.shim()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := v.call(ctx, client, server.Extras, "Reserve", &task.StateRequest{ID: v.id}, &emptypb.Empty{}); err != nil {
		return err
	}
	address, err := ipc.Public(v.socket())
	if err != nil {
		return err
	}
	if err := os.WriteFile("address", []byte(address), 0o600); err != nil { // where containerd up to 1.7 looks for it
		return fmt.Errorf("cannot write address into the bundle: %w", err)
	}
	reply, err := startReply(address, modern, os.Getenv("MAX_SHIM_VERSION"))
	if err != nil {
		return err
	}
	_, err = stdout.Write(reply)
	return err
}

// startReply is a BootstrapResult for a containerd that sent parameters (2.3 on), JSON for one that names the newest version it
// knows (1.7 on), and the address alone before.
func startReply(address string, modern bool, maxVersion string) ([]byte, error) {
	if modern {
		return proto.Marshal(&bootstrap.BootstrapResult{Version: 3, Address: address, Protocol: "ttrpc"})
	}
	if newest, err := strconv.Atoi(maxVersion); err == nil && newest >= 2 {
		return json.Marshal(struct {
			Version  int    `json:"version"`
			Address  string `json:"address"`
			Protocol string `json:"protocol"`
		}{min(newest, 3), address, "ttrpc"})
	}
	return []byte(address), nil
}

// delete removes what is left of a container after containerd lost its shim: the shim's successor adopts and deletes it.
func (v *invocation) delete(stdout io.Writer) error {
	client, err := v.shim()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	resp := task.DeleteResponse{ExitStatus: 255, ExitedAt: timestamppb.Now()}
	err = v.call(ctx, client, server.ServiceV3, "Kill", &task.KillRequest{ID: v.id, Signal: 9, All: true}, &emptypb.Empty{})
	if err == nil {
		err = v.call(ctx, client, server.ServiceV3, "Wait", &task.WaitRequest{ID: v.id}, &task.WaitResponse{})
	}
	if err == nil || errdefs.IsNotFound(err) {
		err = v.call(ctx, client, server.ServiceV3, "Delete", &task.DeleteRequest{ID: v.id}, &resp)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	_ = v.call(ctx, client, server.ServiceV3, "Shutdown", &task.ShutdownRequest{ID: v.id}, &emptypb.Empty{})
	reply, err := proto.Marshal(&resp)
	if err != nil {
		return err
	}
	_, err = stdout.Write(reply)
	return err
}

func (v *invocation) call(ctx context.Context, c *ttrpc.Client, service, method string, req, resp any) error {
	ctx = ttrpc.WithMetadata(ctx, ttrpc.MD{server.NamespaceHeader: {v.namespace}})
	return errgrpc.ToNative(c.Call(ctx, service, method, req, resp))
}

func (v *invocation) socket() string { return filepath.Join(v.state, "sock") }

// shim connects to the shim for this containerd, which is told apart by where its events go, and starts it if need be. There
// is one for each namespace, since containerd does not say in every request which one it means. $SLIPWAY_SHIM_STATE chooses
// another directory for them.
func (v *invocation) shim() (*ttrpc.Client, error) {
	if v.namespace == "" || v.id == "" {
		return nil, errors.New("-namespace and -id are needed")
	}
	base := os.Getenv("SLIPWAY_SHIM_STATE")
	if base == "" {
		base = defaultState()
	}
	sum := sha256.Sum256([]byte(v.events + " " + v.namespace)) // socket paths must be short
	v.state = filepath.Join(base, hex.EncodeToString(sum[:6]))
	if err := os.MkdirAll(v.state, 0o711); err != nil {
		return nil, fmt.Errorf("cannot make state directory: %w", err)
	}
	unlock, err := lockState(filepath.Join(v.state, "start.lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	client, err := v.connect()
	if err == nil {
		return client, nil
	}
	if err := v.spawn(); err != nil {
		return nil, fmt.Errorf("cannot start the shim: %w", err)
	}
	return v.connect()
}

// connect makes sure that a shim answers, and not only that it listens.
func (v *invocation) connect() (*ttrpc.Client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := ipc.Dial(ctx, v.socket())
	if err != nil {
		return nil, fmt.Errorf("cannot connect to the shim: %w", err)
	}
	client := ttrpc.NewClient(conn)
	if err := v.call(ctx, client, server.ServiceV3, "Connect", &task.ConnectRequest{}, &task.ConnectResponse{}); err != nil {
		client.Close()
		return nil, fmt.Errorf("the shim does not answer (its log is %s): %w", filepath.Join(v.state, "log"), err)
	}
	return client, nil
}

// spawn starts a shim that listens by the time this returns.
func (v *invocation) spawn() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(v.state, "log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(self, "serve", "--state", v.state, "--events", v.events, "--namespace", v.namespace)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, filepath.VolumeName(v.state)+string(filepath.Separator)
	return ipc.Start(cmd, v.socket())
}
