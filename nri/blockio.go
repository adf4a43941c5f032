package nri

import (
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// BlockIOClass is what plugins mean when they put a container into a class of block I/O by its name (NRI's LinuxResources.blockio_class). The zero
// value of a limit sets none.
type BlockIOClass struct {
	Weight  uint16          `toml:"weight"` // 10 to 1000, for devices that name none (runtime-spec config-linux.md, Block IO)
	Devices []BlockIODevice `toml:"device"`
}

// BlockIODevice is a limit for one disk.
type BlockIODevice struct {
	Path      string `toml:"path"` // of the device
	Weight    uint16 `toml:"weight"`
	ReadBPS   uint64 `toml:"read_bps"` // bytes in a second
	WriteBPS  uint64 `toml:"write_bps"`
	ReadIOPS  uint64 `toml:"read_iops"` // operations in a second
	WriteIOPS uint64 `toml:"write_iops"`
}

// blockIO finds a class as documents have it. Devices are looked up each time: they come and go.
func (c Config) blockIO(name string) (*specs.LinuxBlockIO, error) {
	class, ok := c.BlockIO[name]
	if !ok {
		return nil, fmt.Errorf("there is no class of block I/O %.100q ([cri.nri.block_io.NAME] has them): %w", name, errdefs.ErrInvalidArgument)
	}
	out := &specs.LinuxBlockIO{}
	if class.Weight != 0 {
		out.Weight = &class.Weight
	}
	for _, d := range class.Devices {
		major, minor, err := deviceNumber(d.Path)
		if err != nil {
			return nil, fmt.Errorf("class of block I/O %q: %w", name, err)
		}
		if d.Weight != 0 {
			w := specs.LinuxWeightDevice{Weight: &d.Weight}
			w.Major, w.Minor = major, minor
			out.WeightDevice = append(out.WeightDevice, w)
		}
		for _, limit := range []struct {
			list *[]specs.LinuxThrottleDevice
			rate uint64
		}{
			{&out.ThrottleReadBpsDevice, d.ReadBPS}, {&out.ThrottleWriteBpsDevice, d.WriteBPS},
			{&out.ThrottleReadIOPSDevice, d.ReadIOPS}, {&out.ThrottleWriteIOPSDevice, d.WriteIOPS},
		} {
			if limit.rate != 0 {
				t := specs.LinuxThrottleDevice{Rate: limit.rate}
				t.Major, t.Minor = major, minor
				*limit.list = append(*limit.list, t)
			}
		}
	}
	return out, nil
}
