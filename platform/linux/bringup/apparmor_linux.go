package bringup

import (
	"fmt"

	"github.com/opencontainers/runc/libcontainer/apparmor"
	"golang.org/x/sys/unix"
)

// apparmorProfile is the process's, or "".
func (b *builder) apparmorProfile() string {
	if b.Process.AppArmorProfile != "" {
		return b.Process.AppArmorProfile
	}
	return b.Config.AppArmorProfile
}

var apparmorEnabled = apparmor.IsEnabled // which tests replace: few machines that they run on have it

// openProfile opens what the profile is written to as long as /proc is the host's: the container's could have something
// harmless there, and the program would run unconfined (CVE-2025-52881). Before Linux 5.8 all security modules had the same file.
func (b *builder) openProfile() {
	if b.apparmorProfile() == "" {
		return
	}
	if !apparmorEnabled() {
		b.fail(fmt.Errorf("cannot use AppArmor profile %s: AppArmor is not enabled on this machine", b.apparmorProfile()))
		return
	}
	const what = "open the AppArmor attribute of the process"
	b.attr = b.Words(1)
	opened, older := b.Label(), b.Label()
	b.Call(what, unix.SYS_OPENAT, unix.AT_FDCWD, "/proc/thread-self/attr/apparmor/exec", unix.O_WRONLY|unix.O_CLOEXEC, 0).
		Into(b.attr).Then(opened).On(unix.ENOENT, older)
	b.Place(older)
	b.Call(what, unix.SYS_OPENAT, unix.AT_FDCWD, "/proc/thread-self/attr/exec", unix.O_WRONLY|unix.O_CLOEXEC, 0).Into(b.attr)
	b.Place(opened)
}

// confine has the next exec begin under the profile (aa_change_onexec(2)). Before no_new_privs, under which a confined process
// may change less.
func (b *builder) confine() {
	profile := b.apparmorProfile()
	if profile == "" {
		return
	}
	text := "exec " + profile
	b.Call("use AppArmor profile "+profile, unix.SYS_WRITE, b.attr, text, len(text))
	b.Call("close", unix.SYS_CLOSE, b.attr)
}
