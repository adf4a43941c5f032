package windows

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/Microsoft/hcsshim/cmd/containerd-shim-runhcs-v1/stats"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/slipwayd/slipway/platform"
)

// listed is one process of the service's ProcessList property, the same in both schemas.
type listed struct {
	ProcessID       int `json:"ProcessId"`
	CreateTimestamp time.Time
}

func (c *container) processList(ctx context.Context) ([]listed, error) {
	data, err := c.system.Properties(ctx, "ProcessList")
	if err != nil {
		return nil, err
	}
	var properties struct{ ProcessList []listed }
	if err := json.Unmarshal(data, &properties); err != nil {
		return nil, fmt.Errorf("cannot read the service's list: %w", err)
	}
	return properties.ProcessList, nil
}

func (c *container) Pids(ctx context.Context) ([]int, error) {
	if c.system == nil || c.init.hasEnded() {
		return nil, nil
	}
	list, err := c.processList(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot list the processes of container %q: %w", c.name(), err)
	}
	pids := make([]int, 0, len(list))
	for _, p := range list {
		pids = append(pids, p.ProcessID)
	}
	return pids, nil
}

// statistics is the property of that name, the same in both schemas.
type statistics struct {
	Timestamp, ContainerStartTime time.Time
	Uptime100ns                   uint64
	Memory                        struct {
		MemoryUsageCommitBytes, MemoryUsageCommitPeakBytes, MemoryUsagePrivateWorkingSetBytes uint64
	}
	Processor struct {
		TotalRuntime100ns, RuntimeUser100ns, RuntimeKernel100ns uint64
	}
	Storage struct {
		ReadCountNormalized, ReadSizeBytes, WriteCountNormalized, WriteSizeBytes uint64
	}
}

// Stats answers the message that runhcs answers, which clients of containerd on Windows know.
func (c *container) Stats(ctx context.Context) (platform.Stats, error) {
	system, err := c.running()
	if err != nil {
		return platform.Stats{}, fmt.Errorf("cannot measure: %w", err)
	}
	data, err := system.Properties(ctx, "Statistics")
	if err != nil {
		return platform.Stats{}, fmt.Errorf("cannot measure container %q: %w", c.name(), err)
	}
	var properties struct{ Statistics statistics }
	if err := json.Unmarshal(data, &properties); err != nil {
		return platform.Stats{}, fmt.Errorf("cannot read the statistics of container %q: %w", c.name(), err)
	}
	s := properties.Statistics
	return platform.Stats{Metrics: &stats.Statistics{Container: &stats.Statistics_Windows{Windows: &stats.WindowsContainerStatistics{
		Timestamp: timestamppb.New(s.Timestamp), ContainerStartTime: timestamppb.New(s.ContainerStartTime), UptimeNS: s.Uptime100ns * 100,
		Processor: &stats.WindowsContainerProcessorStatistics{
			TotalRuntimeNS: s.Processor.TotalRuntime100ns * 100, RuntimeUserNS: s.Processor.RuntimeUser100ns * 100,
			RuntimeKernelNS: s.Processor.RuntimeKernel100ns * 100,
		},
		Memory: &stats.WindowsContainerMemoryStatistics{
			MemoryUsageCommitBytes:            s.Memory.MemoryUsageCommitBytes,
			MemoryUsageCommitPeakBytes:        s.Memory.MemoryUsageCommitPeakBytes,
			MemoryUsagePrivateWorkingSetBytes: s.Memory.MemoryUsagePrivateWorkingSetBytes,
		},
		Storage: &stats.WindowsContainerStorageStatistics{
			ReadCountNormalized: s.Storage.ReadCountNormalized, ReadSizeBytes: s.Storage.ReadSizeBytes,
			WriteCountNormalized: s.Storage.WriteCountNormalized, WriteSizeBytes: s.Storage.WriteSizeBytes,
		},
	}}}}, nil
}
