package main

import (
	"github.com/slipwayd/slipway/api/slipway"
	"golang.org/x/sys/unix"
)

// describeHost finds out what `slipway info` tells of the machine.
func describeHost() slipway.Host {
	var h slipway.Host
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var fs unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &fs) == nil {
		switch fs.Type {
		case unix.CGROUP2_SUPER_MAGIC:
			h.Cgroup = "v2"
		case unix.TMPFS_MAGIC:
			h.Cgroup = "v1"
		}
	}
	return h
}
