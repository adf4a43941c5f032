package e2ewine

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/Microsoft/hcsshim/hcn"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	plugin = "plug.exe"
	// pluginEnv names the directory in which it keeps a file with the namespace for each attachment.
	pluginEnv = "SLIPWAY_E2E_PLUGIN"
)

// bePlugin is a CNI plugin (CNI SPEC.md). It gives every pod the loopback address, at which a test can listen: the simulator's networks carry nothing.
func bePlugin() error {
	attachment := filepath.Join(os.Getenv(pluginEnv), os.Getenv("CNI_CONTAINERID"))
	_, _ = io.Copy(io.Discard, os.Stdin)
	switch os.Getenv("CNI_COMMAND") {
	case "ADD":
		if _, err := hcn.GetNamespaceByID(os.Getenv("CNI_NETNS")); err != nil {
			return err
		}
		fmt.Println(`{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"}],"ips":[{"address":"127.0.0.1/8","interface":0}]}`)
		return os.WriteFile(attachment, []byte(os.Getenv("CNI_NETNS")), 0o600)
	case "DEL":
		if err := os.Remove(attachment); !os.IsNotExist(err) {
			return err
		}
	case "VERSION":
		fmt.Println(`{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}`)
	}
	return nil
}

// withPlugin writes a configuration whose pods are attached by this program, and answers the directory of attachments.
func withPlugin(t *testing.T) (conf, attached string) {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"bin/" + plugin: program, "conf/10-plug.conflist": []byte(`{"cniVersion":"1.0.0","name":"plug","plugins":[{"type":"plug"}]}`), "attached/none": nil,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	attached = filepath.Join(dir, "attached")
	t.Setenv(pluginEnv, attached)
	return fmt.Sprintf("[cri]\ncni_conf_dir = '%s'\ncni_bin_dirs = ['%s']\n", filepath.Join(dir, "conf"), filepath.Join(dir, "bin")), attached
}

// TestPodPlugin: a plugin attaches a pod by its namespace's GUID and takes it off again, also when the daemon was killed meanwhile; port-forward
// goes to the address that it gave.
func TestPodPlugin(t *testing.T) {
	conf, attached := withPlugin(t)
	k := startCRI(t, conf)
	pod := k.pod("plugged")
	podID := k.run(pod, "")
	_, doc := k.status(k.begin(podID, pod, k.container("c", k.hello(), sleeper...)))
	if netns, err := os.ReadFile(filepath.Join(attached, podID)); err != nil || string(netns) != doc.Windows.Network.NetworkNamespace {
		t.Errorf("attached is %q, %v, and the container is in %+v", netns, err, doc.Windows.Network)
	}
	k.forward(podID)
	k.d.kill()
	k.d.start()
	k.dial()
	st, err := k.PodSandboxStatus(k.d.ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: podID})
	if err != nil || st.Status.Network.Ip != "127.0.0.1" || st.Status.State != runtime.PodSandboxState_SANDBOX_READY {
		t.Errorf("status of the pod: %v, %v", st, err)
	}
	k.removeAll()
	if _, err := os.Stat(filepath.Join(attached, podID)); !os.IsNotExist(err) {
		t.Errorf("the pod is still attached: %v", err)
	}
}

// forward sends and receives through a forwarded port, and one that nobody listens at.
func (k *kubelet) forward(podID string) {
	k.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		k.Fatal(err)
	}
	echoed := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = io.CopyN(c, c, 5)
			c.Close()
		}
		echoed <- err
	}()
	port := l.Addr().(*net.TCPAddr).Port
	resp, err := k.PortForward(k.d.ctx, &runtime.PortForwardRequest{PodSandboxId: podID, Port: []int32{int32(port)}})
	if err != nil {
		k.Fatal(err)
	}
	conn := k.dialSPDY(resp.Url, "portforward.k8s.io")
	through := func(request string) (text, failure string) {
		headers := func(kind string) http.Header {
			return http.Header{"streamType": {kind}, "port": {strconv.Itoa(port)}, "requestID": {request}}
		}
		errs, err := conn.CreateStream(headers("error"))
		if err != nil {
			k.Fatal(err)
		}
		data, err := conn.CreateStream(headers("data"))
		if err != nil {
			k.Fatal(err)
		}
		_, _ = io.WriteString(data, "hello")
		answer, _ := io.ReadAll(data)
		said, _ := io.ReadAll(errs)
		return string(answer), string(said)
	}
	if text, failure := through("0"); text != "hello" || failure != "" {
		k.Errorf("through the port: %q, %q", text, failure)
	}
	if err := <-echoed; err != nil {
		k.Error(err)
	}
	if err := l.Close(); err != nil {
		k.Fatal(err)
	}
	if text, failure := through("1"); text != "" || failure == "" {
		k.Errorf("through a port that nobody listens at: %q, %q", text, failure)
	}
}
