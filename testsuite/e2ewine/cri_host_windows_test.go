package e2ewine

import (
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestHostProcessPod: processes of the host go to hcsshim's shim, in no network of their own, and their pod says so.
func TestHostProcessPod(t *testing.T) {
	told := withRunhcs(t)
	k := startCRI(t, natNetwork)
	pod := k.pod("host")
	pod.Windows.SecurityContext.HostProcess = true
	pod.Linux.SecurityContext.NamespaceOptions.Network = runtime.NamespaceMode_NODE // as kubelet says it
	podID := k.run(pod, "")
	c := k.container("c", k.hello(), "cmd", "/c", "ver")
	c.Windows.SecurityContext.HostProcess = true
	c.Windows.SecurityContext.RunAsUsername = `NT AUTHORITY\SYSTEM`
	id := k.begin(podID, pod, c)
	st, err := k.PodSandboxStatus(k.d.ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: podID})
	if err != nil || st.Status.Linux.Namespaces.Options.Network != runtime.NamespaceMode_NODE || st.Status.Network.Ip != "" {
		t.Errorf("status of the pod: %v, %v", st, err)
	}
	var doc specs.Spec
	if err := readJSON(filepath.Join(told, "config.json"), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Annotations["microsoft.com/hostprocess-container"] != "true" || doc.Process.User.Username != `NT AUTHORITY\SYSTEM` || doc.Windows.Network != nil {
		t.Errorf("the shim's document: %v, %+v, %+v", doc.Annotations, doc.Process, doc.Windows)
	}
	k.d.kill()
	k.d.start()
	k.dial()
	if _, err := k.StopContainer(k.d.ctx, &runtime.StopContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if st := k.ended(id); st.ExitCode != 9 {
		t.Errorf("it ended with %v", st)
	}
	k.removeAll()
}
