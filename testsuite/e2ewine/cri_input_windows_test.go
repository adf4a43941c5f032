package e2ewine

import (
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestInputOutlives: what a container reads does not end with a client, nor with the daemon.
func TestInputOutlives(t *testing.T) {
	k := startCRI(t, natNetwork)
	pod := k.pod("input")
	c := k.container("shell", k.hello(), "cmd")
	c.Stdin = true
	id := k.begin(k.run(pod, ""), pod, c)
	for _, word := range []string{"first", "second"} {
		if word == "second" {
			k.d.kill()
			k.d.start()
			k.dial()
		}
		resp, err := k.Attach(k.d.ctx, &runtime.AttachRequest{ContainerId: id, Stdin: true, Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		k.stream(resp.Url, "stdin", "stdout").say("echo " + word + " %SLIPWAY%\r\n")
		k.log("shell", word+" "+osVersion)
	}
	if st, _ := k.status(id); st.State != runtime.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the shell is %v", st)
	}
}
