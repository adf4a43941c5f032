// Package usage reads what the processes of a cgroup use, on version 1 and 2 of the kernel's control groups (Documentation/admin-guide/cgroup-v1,
// cgroup-v2.rst). It is made for hundreds of cgroups every few seconds: a handful of files for each, read into one buffer.
//
// It imports nothing of Slipway and writes nothing. On systems other than Linux there is no cgroup to find.
package usage

import "time"

// Host is where this host's cgroups are. Make it with NewHost.
type Host struct{ host }

// NewHost reads the mount table. NotFound when no cgroups are mounted.
func NewHost() (*Host, error) { return newHost() }

// Cgroup is one group: a directory, or one for each controller.
type Cgroup struct{ cgroup }

// Find answers the cgroup of a process, by its path below the process's hierarchies' roots. NotFound when there is no such process.
func (h *Host) Find(pid int) (*Cgroup, error) { return h.find(pid) }

// Parent is the group around c if its name is name, nil otherwise.
func (c *Cgroup) Parent(name string) *Cgroup { return c.parent(name) }

// Read answers what the group and those below it use. NotFound when it is gone.
func (c *Cgroup) Read() (Usage, error) { return c.read() }

// ReadAll is Read with the counts that few ask for in Usage.More.
func (c *Cgroup) ReadAll() (Usage, error) { return c.readAll() }

// Usage is what a cgroup uses at a moment, in bytes and nanoseconds. Counts go up from when it was made.
type Usage struct {
	At         time.Time
	CPU        uint64 // time on processors
	Memory     uint64 // with the page cache
	WorkingSet uint64 // Memory without what the kernel would drop first; its killer looks at that
	RSS        uint64 // anonymous memory and swap cache
	Commit     uint64 // memory that is promised, wherever it is; of Windows alone
	Limit      uint64 // of memory, 0 for none
	Faults     uint64
	Majors     uint64  // faults that read from a disk
	Swap       *uint64 // nil where the kernel does not count it
	SwapLimit  uint64  // 0 for none
	Tasks      uint64  // processes and their threads; on Windows processes alone
	Pressure   *Pressures
	More       *More // of ReadAll
}

// Pressures are stalls for lack of something (Documentation/accounting/psi.rst). Of cgroup version 2 only.
type Pressures struct{ CPU, Memory, IO Pressure }

// Pressure is the time in which some or all tasks stalled.
type Pressure struct{ Some, Full Stall }

// Stall is in percent of the last 10, 60 and 300 seconds, and in nanoseconds of all time.
type Stall struct {
	Avg10, Avg60, Avg300 float64
	Total                uint64
}

// More is what monitoring asks for besides.
type More struct {
	User, System              uint64 // of CPU
	Periods, Throttled        uint64 // periods in which it was to run, and had used up its share
	ThrottledTime             uint64
	Cache, MappedFile, Kernel uint64
	MaxMemory, MemoryFailures uint64
	OOMEvents                 uint64
	Processes, MaxTasks       uint64
	Devices                   []Device
}

// Device is what went to and from one block device.
type Device struct {
	Major, Minor                         uint64
	ReadBytes, WriteBytes, Reads, Writes uint64
}
