package spec

// The types of this file are what a kubelet asks of pods and containers of Windows (CRI's WindowsPodSandboxConfig and
// WindowsContainerConfig), as those of pod.go are of Linux'. Which network a pod has is in PodSecurity.Namespaces.

// WindowsSecurity is who a process is. What a container does not say is as its pod says it.
type WindowsSecurity struct {
	Username       string `json:",omitempty"` // in the image; "" for the image's own
	CredentialSpec string `json:",omitempty"` // JSON of a group managed service account; "" for none
	HostProcess    bool   `json:",omitempty"` // a process of the host in a job, not a container
}

// WindowsResources are limits in CRI's units; zero means not set. Of the three of the processor at most one can hold.
type WindowsResources struct {
	CPUShares  int64         `json:",omitempty"` // weight, 1 to 10000
	CPUCount   int64         `json:",omitempty"` // processors
	CPUMaximum int64         `json:",omitempty"` // hundredths of a per cent of all processors
	Memory     int64         `json:",omitempty"` // bytes
	RootfsSize int64         `json:",omitempty"` // bytes of the system drive
	Affinity   []CPUAffinity `json:",omitempty"`
}

// CPUAffinity is a set of processors in one of Windows' processor groups.
type CPUAffinity struct {
	Mask  uint64
	Group uint32
}

// update answers w with what change sets. A limit of the processor takes the place of another.
func (w *WindowsResources) update(change *WindowsResources) *WindowsResources {
	if change == nil {
		return w
	}
	next := WindowsResources{}
	if w != nil {
		next = *w
	}
	if change.CPUShares != 0 || change.CPUCount != 0 || change.CPUMaximum != 0 {
		next.CPUShares, next.CPUCount, next.CPUMaximum = change.CPUShares, change.CPUCount, change.CPUMaximum
	}
	if change.Memory != 0 {
		next.Memory = change.Memory
	}
	if change.RootfsSize != 0 {
		next.RootfsSize = change.RootfsSize
	}
	if len(change.Affinity) > 0 {
		next.Affinity = change.Affinity
	}
	return &next
}
