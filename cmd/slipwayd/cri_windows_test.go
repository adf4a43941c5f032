package main

import (
	"strings"
	"testing"
	"time"

	"github.com/Microsoft/hcsshim/cmd/containerd-shim-runhcs-v1/stats"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/slipwayd/slipway/internal/opaque"
)

// TestConfigOfLinux: what only Linux has is refused by its name.
func TestConfigOfLinux(t *testing.T) {
	for key, text := range map[string]string{
		"cri.pause":            "[cri]\npause = true\n",
		"cri.systemd_cgroup":   "[cri]\nsystemd_cgroup = true\n",
		"cri.selinux":          "[cri]\nselinux = true\n",
		"cri.nri.enabled":      "[cri.nri]\nenabled = true\n",
		"cri.runtimes.x.pause": "[cri.runtimes.x]\ntype = \"io.containerd.runhcs.v1\"\npause = true\n",
	} {
		if _, err := loadConfig(writeConfig(t, text), true); err == nil || !strings.Contains(err.Error(), key+" is for Linux") {
			t.Errorf("%s: %v", key, err)
		}
	}
	for _, class := range builtinClasses {
		if _, err := loadConfig(writeConfig(t, "[cri]\ndefault_runtime = \""+class+"\"\n"), true); err != nil {
			t.Errorf("class %s needs no configuration: %v", class, err)
		}
	}
}

func TestUsage(t *testing.T) {
	at := time.Now().UTC()
	data, err := proto.Marshal(&stats.Statistics{Container: &stats.Statistics_Windows{Windows: &stats.WindowsContainerStatistics{
		Timestamp: timestamppb.New(at), Processor: &stats.WindowsContainerProcessorStatistics{TotalRuntimeNS: 7},
		Memory: &stats.WindowsContainerMemoryStatistics{MemoryUsageCommitBytes: 30, MemoryUsagePrivateWorkingSetBytes: 20},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if u, err := windowsUsage(opaque.Any{Value: data}); err != nil || !u.At.Equal(at) || u.CPU != 7 || u.Commit != 30 || u.WorkingSet != 20 {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := windowsUsage(opaque.Any{TypeURL: "empty"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("statistics of nothing: %v", err)
	}
	if _, err := windowsUsage(opaque.Any{Value: []byte{0xff}}); err == nil {
		t.Error("what is no message is read")
	}
}
